"""Typed array parameters for set-based statements: each column of a batch travels as one array and is unnested."""

from typing import Any

from sqlalchemy import BigInteger, BindParameter, Boolean, Date, Integer, LargeBinary, Text, bindparam
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP

Parameters = list[BindParameter[Any]]


def texts(*names: str) -> Parameters:
    return [bindparam(name, type_=ARRAY(Text)) for name in names]


def integers(*names: str) -> Parameters:
    return [bindparam(name, type_=ARRAY(Integer)) for name in names]


def bigints(*names: str) -> Parameters:
    return [bindparam(name, type_=ARRAY(BigInteger)) for name in names]


def binaries(*names: str) -> Parameters:
    return [bindparam(name, type_=ARRAY(LargeBinary)) for name in names]


def booleans(*names: str) -> Parameters:
    return [bindparam(name, type_=ARRAY(Boolean)) for name in names]


def instants(*names: str) -> Parameters:
    return [bindparam(name, type_=ARRAY(TIMESTAMP(timezone=True))) for name in names]


def dates(*names: str) -> Parameters:
    return [bindparam(name, type_=ARRAY(Date)) for name in names]
