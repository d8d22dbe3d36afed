// SPDX-License-Identifier: BSD-2-Clause
// An http server that sends back what it is sent, and a client with eight kept connections that checks every byte.
//
//   node http.js server|client ADDRESS PORT
const http = require('http');

const [, , what, host, port] = process.argv;
const REQUESTS = 3000;
const CONNECTIONS = 8;

function payload(number) {
	const size = [1, 100, 1000, 10000, 100000][number % 5] + number;
	const bytes = Buffer.alloc(size);
	for (let i = 0, x = number + 1; i < size; i++) {
		x = (Math.imul(x, 1103515245) + 12345) >>> 0;
		bytes[i] = x >>> 16;
	}
	return bytes;
}

function serve() {
	http.createServer((request, response) => {
		response.writeHead(200, { 'content-type': 'application/octet-stream' });
		request.pipe(response);
	}).listen(Number(port), host);
}

function ask(agent, number) {
	return new Promise((resolve, reject) => {
		const want = payload(number);
		const request = http.request({ host, port, agent, path: '/echo', method: 'POST' }, (response) => {
			const parts = [];
			response.on('data', (part) => parts.push(part));
			response.on('error', reject);
			response.on('end', () => {
				if (Buffer.compare(Buffer.concat(parts), want) !== 0)
					reject(new Error(`wrong answer to request ${number}`));
				else
					resolve(want.length);
			});
		});
		request.on('error', reject);
		request.end(want);
	});
}

async function load() {
	const agent = new http.Agent({ keepAlive: true, maxSockets: CONNECTIONS });
	const start = process.hrtime.bigint();
	let next = 0;
	async function worker() {
		while (next < REQUESTS)
			await ask(agent, next++);
	}
	await Promise.all(Array.from({ length: CONNECTIONS }, worker));
	const seconds = Number(process.hrtime.bigint() - start) / 1e9;
	console.log(`${Math.round(REQUESTS / seconds)} req/s`);
	agent.destroy();
}

if (what === 'server')
	serve();
else
	load().catch((error) => {
		console.error(error.message);
		process.exit(1);
	});
