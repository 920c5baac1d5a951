"""An aiohttp server with one middleware, asked for pages that do not exist, as a scanner does.

Up to 3.10.10 what it prepares for such a request is cached under a key that never comes again (CVE-2024-52303).
Argument: the port.
"""
import sys

from aiohttp import web


@web.middleware
async def measured(request, handler):
    return await handler(request)


async def hello(_request):
    return web.Response(text="hello")


app = web.Application(middlewares=[measured])
app.router.add_get("/", hello)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
