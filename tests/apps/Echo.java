// SPDX-License-Identifier: BSD-2-Clause
// An echo server and clients that check every byte of what comes back; blocking sockets or NIO.
//
//   java Echo blocking-server|nio-server|blocking-client|nio-client ADDRESS PORT
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.util.Iterator;
import java.util.Random;

public class Echo {
	static final int CONNECTIONS = 8;
	static final int BYTES = 8_000_000;

	static byte[] payload(int number) {
		byte[] bytes = new byte[BYTES];
		new Random(number).nextBytes(bytes);
		return bytes;
	}

	static int size(Random random) {
		return 1 + random.nextInt(1 << random.nextInt(18));
	}

	static void wrong(int number, long position) {
		System.err.println("connection " + number + ": wrong byte or end of stream at " + position);
		System.exit(1);
	}

	static void blockingServer(InetSocketAddress address) throws Exception {
		ServerSocket listener = new ServerSocket();
		listener.bind(address);
		while (true) {
			Socket socket = listener.accept();
			Thread.ofEcho(() -> {
				byte[] buffer = new byte[65536];
				InputStream in = socket.getInputStream();
				OutputStream out = socket.getOutputStream();
				for (int n; (n = in.read(buffer)) > 0;)
					out.write(buffer, 0, n);
				socket.close();
			});
		}
	}

	static void blockingClient(InetSocketAddress address, int number) throws Exception {
		byte[] bytes = payload(number);
		byte[] buffer = new byte[65536];
		Socket socket = new Socket(address.getAddress(), address.getPort());
		java.lang.Thread sender = Thread.ofEcho(() -> {
			Random random = new Random(number + 100);
			OutputStream out = socket.getOutputStream();
			for (int at = 0, n; at < BYTES; at += n) {
				n = Math.min(size(random), BYTES - at);
				out.write(bytes, at, n);
			}
			socket.shutdownOutput();
		});
		InputStream in = socket.getInputStream();
		int at = 0;
		for (int n; (n = in.read(buffer)) > 0; at += n)
			for (int i = 0; i < n; i++)
				if (at + i >= BYTES || buffer[i] != bytes[at + i])
					wrong(number, at + i);
		if (at != BYTES)
			wrong(number, at);
		sender.join();
		socket.close();
	}

	static void nioServer(InetSocketAddress address) throws Exception {
		Selector selector = Selector.open();
		ServerSocketChannel listener = ServerSocketChannel.open();
		listener.bind(address);
		listener.configureBlocking(false);
		listener.register(selector, SelectionKey.OP_ACCEPT);
		while (true) {
			selector.select();
			for (Iterator<SelectionKey> it = selector.selectedKeys().iterator(); it.hasNext();) {
				SelectionKey key = it.next();
				it.remove();
				if (key.isAcceptable()) {
					SocketChannel channel = listener.accept();
					if (channel == null)
						continue;
					channel.configureBlocking(false);
					channel.register(selector, SelectionKey.OP_READ, ByteBuffer.allocateDirect(65536));
				} else {
					nioEcho(key);
				}
			}
		}
	}

	static void nioEcho(SelectionKey key) throws Exception {
		SocketChannel channel = (SocketChannel) key.channel();
		ByteBuffer buffer = (ByteBuffer) key.attachment();
		if (key.isReadable()) {
			if (channel.read(buffer) < 0) {
				channel.close();
				return;
			}
			buffer.flip();
		}
		channel.write(buffer);
		if (buffer.hasRemaining()) {
			key.interestOps(SelectionKey.OP_WRITE);
		} else {
			buffer.clear();
			key.interestOps(SelectionKey.OP_READ);
		}
	}

	static class State {
		int number, at;
		byte[] bytes;
		ByteBuffer out;
		Random random;
	}

	static void nioClient(InetSocketAddress address) throws Exception {
		Selector selector = Selector.open();
		ByteBuffer buffer = ByteBuffer.allocateDirect(50000);
		for (int number = 0; number < CONNECTIONS; number++) {
			State state = new State();
			SocketChannel channel = SocketChannel.open(address);
			state.number = number;
			state.bytes = payload(number);
			state.out = ByteBuffer.wrap(state.bytes).limit(0);
			state.random = new Random(number);
			channel.configureBlocking(false);
			channel.register(selector, SelectionKey.OP_READ | SelectionKey.OP_WRITE, state);
		}
		for (int open = CONNECTIONS; open > 0;) {
			if (selector.select(30000) == 0) {
				System.err.println("nothing ready for 30 s");
				System.exit(1);
			}
			for (Iterator<SelectionKey> it = selector.selectedKeys().iterator(); it.hasNext();) {
				SelectionKey key = it.next();
				it.remove();
				nioStep(key, buffer);
				if (!key.isValid())
					open--;
			}
		}
	}

	static void nioStep(SelectionKey key, ByteBuffer buffer) throws Exception {
		SocketChannel channel = (SocketChannel) key.channel();
		State state = (State) key.attachment();
		if (key.isWritable()) {
			if (!state.out.hasRemaining()) {
				if (state.out.position() == BYTES) {
					channel.shutdownOutput();
					key.interestOps(SelectionKey.OP_READ);
				} else {
					state.out.limit(Math.min(state.out.position() + size(state.random), BYTES));
				}
			}
			if (state.out.hasRemaining())
				channel.write(state.out);
		}
		if (key.isReadable()) {
			buffer.clear();
			int n = channel.read(buffer);
			if (n < 0) {
				if (state.at != BYTES)
					wrong(state.number, state.at);
				channel.close();
				return;
			}
			buffer.flip();
			for (; buffer.hasRemaining(); state.at++)
				if (state.at >= BYTES || buffer.get() != state.bytes[state.at])
					wrong(state.number, state.at);
		}
	}

	interface Body {
		void run() throws Exception;
	}

	static class Thread {
		static java.lang.Thread ofEcho(Body body) {
			java.lang.Thread thread = new java.lang.Thread(() -> {
				try {
					body.run();
				} catch (Exception error) {
					error.printStackTrace();
					System.exit(1);
				}
			});
			thread.start();
			return thread;
		}
	}

	public static void main(String[] args) throws Exception {
		InetSocketAddress address = new InetSocketAddress(args[1], Integer.parseInt(args[2]));
		long start = System.nanoTime();
		switch (args[0]) {
		case "blocking-server":
			blockingServer(address);
			return;
		case "nio-server":
			nioServer(address);
			return;
		case "nio-client":
			nioClient(address);
			break;
		default:
			java.lang.Thread[] threads = new java.lang.Thread[CONNECTIONS];
			for (int i = 0; i < CONNECTIONS; i++) {
				int number = i;
				threads[i] = Thread.ofEcho(() -> blockingClient(address, number));
			}
			for (java.lang.Thread thread : threads)
				thread.join();
		}
		System.out.printf("%.0f MB/s right%n", 2e3 * CONNECTIONS * BYTES / (System.nanoTime() - start));
	}
}
