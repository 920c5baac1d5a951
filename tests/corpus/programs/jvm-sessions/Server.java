// A server that makes a session of 5 KB for each request, and forgets it never (keeps) or with the 8,000th after it (forgets).
//
// Arguments: the port, the version.
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.LinkedHashMap;
import java.util.Map;

class Server {
    static boolean forgets;
    static final Map<String, byte[]> SESSIONS = new LinkedHashMap<>() {
        @Override
        protected boolean removeEldestEntry(Map.Entry<String, byte[]> eldest) {
            return forgets && size() > 8000;
        }
    };

    public static void main(String[] arguments) throws Exception {
        forgets = arguments[1].equals("forgets");
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 64);
        server.createContext("/", exchange -> {
            SESSIONS.put(exchange.getRequestURI().getPath(), new byte[5000]);
            byte[] answer = new byte[40000];
            exchange.sendResponseHeaders(200, answer.length);
            exchange.getResponseBody().write(answer);
            exchange.close();
        });
        server.start();
    }
}
