// A server that listens, for each request, for news on one emitter that they all share, and stops listening never (keeps) or
// with its answer (stops). Each listener holds its request's 4 KB.
//
// Arguments: the port, the version.
const news = new (require('events').EventEmitter)();
news.setMaxListeners(0);
const stops = process.argv[3] === 'stops';
require('http').createServer((request, response) => {
  const body = Array.from({ length: 500 }, (_, n) => n + request.url.length);
  const listener = () => body.push(request.url);
  news.on('news', listener);
  if (stops) response.on('finish', () => news.off('news', listener));
  response.end('subscribed');
}).listen(Number(process.argv[2]), '127.0.0.1');
