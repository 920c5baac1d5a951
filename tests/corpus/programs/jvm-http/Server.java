// The JDK's own web server with a bounded cache, run from source: it compiles, warms up and collects as any JVM server does.
//
// Argument: the port.
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;

class Server {
    static final Map<String, byte[]> PAGES = new LinkedHashMap<>() {
        @Override
        protected boolean removeEldestEntry(Map.Entry<String, byte[]> eldest) {
            return size() > 8000;
        }
    };

    static byte[] render(String path) {
        StringBuilder page = new StringBuilder();
        for (int row = 0; row < 100; row++) {
            page.append(path).append(" row ").append(row).append('\n');
        }
        return page.toString().getBytes(StandardCharsets.UTF_8);
    }

    public static void main(String[] arguments) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 64);
        server.createContext("/", exchange -> {
            byte[] page = PAGES.computeIfAbsent(exchange.getRequestURI().getPath(), Server::render);
            exchange.sendResponseHeaders(200, page.length);
            exchange.getResponseBody().write(page);
            exchange.close();
        });
        server.start();
    }
}
