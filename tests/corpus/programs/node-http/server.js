// A plain Node server: it renders a small page of JSON from a bounded cache that fills in the first minutes.
//
// Argument: the port.
const pages = new Map();
require('http').createServer((request, response) => {
  let page = pages.get(request.url);
  if (!page) {
    page = { url: request.url, rows: Array.from({ length: 40 }, (_, row) => `${request.url} row ${row}`) };
    pages.set(request.url, page);
    if (pages.size > 4000) pages.delete(pages.keys().next().value);
  }
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify(page));
}).listen(Number(process.argv[2]), '127.0.0.1');
