//! Java: its own HttpServer, and Tomcat. A thread reads or waits for connections, and requests wait
//! for a pool of threads.

use std::env;

use super::{
    super::{
        play::Started,
        scene::{Family, Scene, dependent, slowed, usual},
        stage::Stage,
    },
    http, in_millis,
};

const PROGRAM: &str = "usr/lib/jvm/*/bin/java";
const TOMCAT_JAR: &str = "usr/share/java/tomcat10-embed-core.jar";
const ANNOTATIONS_JAR: &str = "usr/share/java/jakarta-annotation-api.jar";
const SERVICE_SECS: f64 = 0.05;
const WORKERS: u32 = 4;

/// Work for a request, the same for both servers.
const WORK: &str = r#"  static boolean is(String name) { return Files.exists(Path.of(name)); }
  static void work() throws java.io.IOException {
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
    } catch (InterruptedException stopped) { throw new java.io.InterruptedIOException(); }
  }
"#;

const HTTP_SERVER: &str = r#"
import com.sun.net.httpserver.*;
import java.net.*;
import java.nio.file.*;
import java.util.concurrent.*;
public class App {
  WORK
  static void serve(HttpExchange exchange) throws java.io.IOException {
    work();
    exchange.sendResponseHeaders(200, 2);
    exchange.getResponseBody().write("ok".getBytes());
    exchange.close();
  }
  public static void main(String[] args) throws Exception {
    var at = new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0]));
    var server = HttpServer.create(at, 511);
    server.createContext("/", App::serve);
    server.setExecutor(Executors.newFixedThreadPool(THREADS));
    server.start();
  }
}
"#;

const TOMCAT_SERVER: &str = r#"
import jakarta.servlet.http.*;
import java.net.*;
import java.nio.file.*;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;
public class App {
  WORK
  public static void main(String[] args) throws Exception {
    var connector = new Connector();
    connector.setPort(Integer.parseInt(args[0]));
    for (var property : new String[][] {
      {"address", "127.0.0.1"}, {"acceptCount", "511"}, {"maxKeepAliveRequests", "-1"},
      {"maxThreads", "THREADS"}, {"minSpareThreads", "THREADS"},
    }) connector.setProperty(property[0], property[1]);
    var tomcat = new Tomcat();
    tomcat.setBaseDir(".");
    tomcat.setConnector(connector);
    var context = tomcat.addContext("", Path.of(".").toAbsolutePath().toString());
    Tomcat.addServlet(context, "app", new HttpServlet() {
      protected void doGet(HttpServletRequest request, HttpServletResponse response)
          throws java.io.IOException {
        work();
        response.setContentLength(2);
        response.getOutputStream().write("ok".getBytes());
      }
    });
    context.addServletMappingDecoded("/*", "app");
    tomcat.start();
    tomcat.getServer().await();
  }
}
"#;

/// Java's own server with a fixed pool of threads.
pub const FIXED_POOL: Family = Family {
    name: "java-httpserver",
    needs: &[PROGRAM],
    service_secs: SERVICE_SECS,
    workers: WORKERS,
    forks: false,
    wire: http,
    start: |stage| start(stage, HTTP_SERVER, &[]),
    scenes,
};

/// Tomcat, embedded in a program, with as many threads.
pub const TOMCAT: Family = Family {
    name: "tomcat",
    needs: &[PROGRAM, TOMCAT_JAR, ANNOTATIONS_JAR],
    start: |stage| start(stage, TOMCAT_SERVER, &[TOMCAT_JAR, ANNOTATIONS_JAR]),
    ..FIXED_POOL
};

fn start(stage: &Stage, app: &str, jars: &[&str]) -> anyhow::Result<Started> {
    let addr = stage.addr();
    let app = app.replace("WORK\n", WORK).replace("THREADS", &WORKERS.to_string());
    let source = stage.file("App.java", &in_millis(&app, WORKERS, SERVICE_SECS))?;
    let mut command = stage.program(PROGRAM)?;
    command.args(["-Xmx128m", "-XX:+UseSerialGC", "-Djava.net.preferIPv4Stack=true"]);
    let jars = jars.iter().map(|jar| stage.path(jar)).collect::<anyhow::Result<Vec<_>>>()?;
    if !jars.is_empty() {
        command.arg("-cp").arg(env::join_paths(jars)?);
    }
    command.arg(source).arg(addr.port().to_string());
    let program = stage.tcp(&mut command, addr)?;
    Ok(Started::at(addr, stage.by_files(), program))
}

fn scenes() -> Vec<Scene> {
    [usual(200), dependent(), slowed()].concat()
}
