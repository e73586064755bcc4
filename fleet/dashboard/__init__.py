"""The pages that people look at: HTML made by the server, over the same functions as the API.

::

    browser ─► `front`: session, origin, headers ─► `pages`: one module a page ─► `rendering`: Jinja2, autoescaped
       └──── /live (server-sent events) ─► `live`: the page again, when something it shows has changed

Everything that is no call of the API (`site.is_page`) is a page. A page is for a person who is signed in by a cookie, the API for
programs with a token: neither takes what the other does. No page needs its script.
"""
