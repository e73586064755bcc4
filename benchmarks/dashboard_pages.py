"""Opens pages of a fleet's dashboard, or asks for them again and again, and prints what came: for `dashboard.py`.

A process of its own: in that of a thousand devices it would wait for those, and not for the fleet.

``open``: as many event streams as there are lines ``<cookie> <page>`` on stdin; prints ``ready`` once all are there, and reads them
until stdin is closed. ``ask``: each page of stdin `--times` times, over a connection that is there; prints seconds and bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
import time
from urllib.parse import quote

import httpx


async def open_pages(url: str, context: ssl.SSLContext, wanted: list[tuple[str, str]]) -> None:
    host, port = url.removeprefix("https://").rsplit(":", 1)
    got = [0] * len(wanted)
    strangers = asyncio.Semaphore(8)  # the door takes 32 from one address until each has said who it is

    async def read(number: int, cookie: str, page: str) -> None:
        ask = f"GET /live?page={quote(page, safe='')} HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {cookie}\r\n\r\n"
        async with strangers:
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            writer.write(ask.encode())
            got[number] = len(await reader.read(1 << 16))
        while chunk := await reader.read(1 << 16):
            got[number] += len(chunk)

    tasks = [asyncio.create_task(read(number, *one)) for number, one in enumerate(wanted)]
    while not all(got):
        await asyncio.sleep(0.1)
        for task in tasks:
            if task.done():
                task.result()
                raise SystemExit("a stream ended before it began")
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps({"bytes": sum(got), "ended": sum(task.done() for task in tasks)}), flush=True)
    for task in tasks:
        task.cancel()


def ask_for(url: str, context: ssl.SSLContext, wanted: list[tuple[str, str]], times: int) -> None:
    with httpx.Client(base_url=url, verify=context, timeout=60.0) as client:
        for cookie, page in wanted:
            took, size = [], 0
            for _ in range(times):
                began = time.monotonic()
                answer = client.get(page, headers={"Cookie": cookie})
                took.append(time.monotonic() - began)
                assert answer.status_code == 200, f"{page}: {answer.status_code}"
                size = len(answer.content)
                time.sleep(0.05)
            print(json.dumps({"page": page, "took_s": took, "bytes": size}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Open a dashboard's pages")
    parser.add_argument("what", choices=["open", "ask"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--times", type=int, default=20)
    given = parser.parse_args()
    context = ssl.create_default_context(cafile=given.ca)
    wanted: list[tuple[str, str]] = []
    while line := sys.stdin.readline().strip():
        cookie, page = line.split(" ", 1)
        wanted.append((cookie, page))
    if given.what == "open":
        asyncio.run(open_pages(given.url, context, wanted))
    else:
        ask_for(given.url, context, wanted, given.times)


if __name__ == "__main__":
    main()
