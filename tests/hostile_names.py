"""A name that would break a page, a plot or a terminal which did not escape it."""

HOSTILE = (
    "</script><img src=x onerror=\"document.title='broken'\">\u202e\x1b[2J"
    "$\\frac{1}{0}$%{x}{{ 7*7 }}&lt;<a href='javascript:1'>b</a>\u2028"
)
