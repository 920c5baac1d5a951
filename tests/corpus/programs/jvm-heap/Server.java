// A server with a large heap of which it uses a part: a cache of 12,000 pages that fills in minutes, and a megabyte of garbage
// for each request. The collector lets the heap grow as it sees fit, and gives back what it likes.
//
// Argument: the port.
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.LinkedHashMap;
import java.util.Map;

class Server {
    static final Map<String, byte[]> PAGES = new LinkedHashMap<>() {
        @Override
        protected boolean removeEldestEntry(Map.Entry<String, byte[]> eldest) {
            return size() > 12000;
        }
    };
    static volatile byte[] garbage;

    public static void main(String[] arguments) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 64);
        server.createContext("/", exchange -> {
            for (int part = 0; part < 64; part++) garbage = new byte[16384];
            byte[] page = PAGES.computeIfAbsent(exchange.getRequestURI().getPath(), path -> new byte[12000]);
            exchange.sendResponseHeaders(200, page.length);
            exchange.getResponseBody().write(page);
            exchange.close();
        });
        server.start();
    }
}
