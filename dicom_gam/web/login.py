"""Logging in and out."""

from __future__ import annotations

from flask import Blueprint

pages = Blueprint("login", __name__)
