"""Where measurement and formula meet: records become the report (`build`), the report what is printed (`tables`)."""

from zerosim.report.books import sent_on_average, total_at_rest, total_sent, updates_here
from zerosim.report.build import DRAWN, SCHEMA, build_report
from zerosim.report.files import make_folder, write_report
from zerosim.report.tables import format_report, waits
from zerosim.report.text import binary, console_text, equation, name_list, number, plain_table, si, text_seconds

__all__ = [
    "DRAWN",
    "SCHEMA",
    "binary",
    "build_report",
    "console_text",
    "equation",
    "format_report",
    "make_folder",
    "name_list",
    "number",
    "plain_table",
    "sent_on_average",
    "si",
    "text_seconds",
    "total_at_rest",
    "total_sent",
    "updates_here",
    "waits",
    "write_report",
]
