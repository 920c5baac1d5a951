// A socket.io server that looks up a client's rooms before it joins them, which takes a moment.
//
// Up to 4.5.1 the rooms of a client that is gone by then are kept for ever. Arguments: the install directory, the port.
const { createRequire } = require('module');
const { Server } = createRequire(process.argv[2] + '/')('socket.io');
const io = new Server(Number(process.argv[3]), { serveClient: false, host: '127.0.0.1' });
let served = 0;
io.on('connection', (socket) => {
  const user = ++served;
  setTimeout(() => {
    for (let room = 0; room < 12; room++) socket.join(`user:${user}:room:${room}`);
  }, 60);
});
