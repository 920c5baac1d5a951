//! Java's own HttpServer: one thread reads, and requests wait for a pool of threads.

use super::{
    super::{
        play::Started,
        scene::{Family, dependent, slowed, usual},
    },
    http, in_millis,
};

const PROGRAM: &str = "usr/lib/jvm/*/bin/java";
const SERVICE_SECS: f64 = 0.05;
const WORKERS: u32 = 4;

const APP: &str = r#"
import com.sun.net.httpserver.*;
import java.net.*;
import java.nio.file.*;
import java.util.concurrent.*;
public class App {
  static boolean is(String name) { return Files.exists(Path.of(name)); }
  static void serve(HttpExchange exchange) throws java.io.IOException {
    try {
      String peer = System.getenv("DEPENDENCY");
      if (peer != null) {
        String[] parts = peer.split(":");
        try (Socket asked = new Socket(parts[0], Integer.parseInt(parts[1]))) {
          asked.getOutputStream().write("?\n".getBytes());
          asked.getInputStream().read();
        }
      }
      while (is("stuck")) Thread.sleep(20);
      Thread.sleep(is("slow") ? SLOW : SECS);
    } catch (InterruptedException stopped) { return; }
    exchange.sendResponseHeaders(200, 2);
    exchange.getResponseBody().write("ok".getBytes());
    exchange.close();
  }
  public static void main(String[] args) throws Exception {
    var at = new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0]));
    var server = HttpServer.create(at, 511);
    server.createContext("/", App::serve);
    server.setExecutor(Executors.newFixedThreadPool(WORKERS));
    server.start();
  }
}
"#;

/// Fixed pool of threads.
pub const FIXED_POOL: Family = Family {
    name: "java-httpserver",
    needs: &[PROGRAM],
    service_secs: SERVICE_SECS,
    workers: WORKERS,
    forks: false,
    wire: http,
    start: |stage| {
        let addr = stage.addr();
        let app = in_millis(APP, WORKERS, SERVICE_SECS);
        let source = stage.file("App.java", &app)?;
        let mut command = stage.program(PROGRAM)?;
        command.args(["-Xmx128m", "-XX:+UseSerialGC", "-Djava.net.preferIPv4Stack=true"]);
        command.arg(source).arg(addr.port().to_string());
        let program = stage.tcp(&mut command, addr)?;
        Ok(Started::at(addr, stage.by_files(), program))
    },
    scenes: || [usual(200), dependent(), slowed()].concat(),
};
