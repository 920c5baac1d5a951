// A pricing service in Java that scripts ask through Py4J's gateway, with a bounded cache of quotes that warms up.
//
// Up to 0.7 the gateway keeps every client's socket after it is closed. Argument: the port.
import java.util.LinkedHashMap;
import java.util.Map;
import py4j.GatewayServer;

class Server {
    private final Map<Integer, String> quotes = new LinkedHashMap<>() {
        @Override
        protected boolean removeEldestEntry(Map.Entry<Integer, String> eldest) {
            return size() > 5000;
        }
    };

    public synchronized String quote(int article) {
        return quotes.computeIfAbsent(article, key -> ("article " + key + " ").repeat(20));
    }

    public static void main(String[] arguments) {
        new GatewayServer(new Server(), Integer.parseInt(arguments[0])).start();
    }
}
