// Unpacks messages from a queue with snappy's synchronous calls on Buffers.
//
// In 7.2.0 such a call keeps its input for ever. Argument: the install directory.
const { createRequire } = require('module');
const snappy = createRequire(process.argv[2] + '/')('snappy');
let number = 0;
setInterval(() => {
  for (let i = 0; i < 10; i++) {
    const message = Buffer.alloc(600 + ((number++ * 37) % 2400), 97 + (number % 26));
    message.writeUInt32LE(number, 8);
    snappy.uncompressSync(snappy.compressSync(message));
  }
}, 50);
if (process.argv[3]) setInterval(() => console.log(number, process.memoryUsage()), 3000);
