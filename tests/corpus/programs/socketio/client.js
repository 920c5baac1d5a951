// Clients on a flaky network: each connects, says hello, and is gone 20 ms later.
//
// Arguments: the install directory, the port, clients a second.
const { createRequire } = require('module');
const WebSocket = createRequire(process.argv[2] + '/')('ws');
const url = `ws://127.0.0.1:${process.argv[3]}/socket.io/?EIO=4&transport=websocket`;
setInterval(() => {
  const client = new WebSocket(url);
  client.on('message', (data) => {
    const text = String(data);
    if (text.startsWith('0')) client.send('40');
    if (text.startsWith('40')) setTimeout(() => client.close(), 20);
  });
  client.on('error', () => {});
}, 1000 / Number(process.argv[4]));
