//! Go's net/http: it accepts and reads at once, and requests wait for a semaphore.

use super::{
    super::{
        play::Started,
        scene::{Family, dependent, slowed, usual},
        stage::find,
    },
    http, in_millis,
};

const PROGRAM: &str = "usr/lib/go-*/bin/go";
const SERVICE_SECS: f64 = 0.05;
const WORKERS: u32 = 4;

const APP: &str = r#"package main

import ("bufio"; "net"; "net/http"; "os"; "time")

var slots = make(chan bool, WORKERS)

func is(name string) bool { _, err := os.Stat(name); return err == nil }

func serve(w http.ResponseWriter, r *http.Request) {
	slots <- true
	defer func() { <-slots }()
	if peer := os.Getenv("DEPENDENCY"); peer != "" {
		asked, err := net.Dial("tcp", peer)
		if err != nil { http.Error(w, err.Error(), 502); return }
		defer asked.Close()
		asked.Write([]byte("?\n"))
		bufio.NewReader(asked).ReadString('\n')
	}
	for is("stuck") { time.Sleep(20 * time.Millisecond) }
	if is("slow") { time.Sleep(SLOW * time.Millisecond) } else { time.Sleep(SECS * time.Millisecond) }
	w.Write([]byte("ok"))
}

func main() {
	http.HandleFunc("/", serve)
	panic(http.ListenAndServe(os.Args[1], nil))
}
"#;

/// Goroutines behind a semaphore.
pub const GO: Family = Family {
    name: "go-net-http",
    needs: &[PROGRAM],
    service_secs: SERVICE_SECS,
    workers: WORKERS,
    forks: false,
    wire: http,
    start: |stage| {
        let addr = stage.addr();
        let app = in_millis(APP, WORKERS, SERVICE_SECS);
        let source = stage.file("app.go", &app)?;
        let (go, root) = find(&stage.servers, PROGRAM)?;
        let mut build = stage.program(PROGRAM)?;
        // Kept beside the compiler: it compiles its library once.
        let cache = root.map_or_else(std::env::temp_dir, |root| root.join("var/cache/go"));
        let goroot = std::fs::canonicalize(go)?;
        build.env("GOROOT", goroot.ancestors().nth(2).unwrap_or(&goroot));
        build.env("GOCACHE", cache).env("CGO_ENABLED", "0").env("GO111MODULE", "off");
        build.env("GOFLAGS", "-p=1");
        stage.finish(build.args(["build", "-o", "app"]).arg(source))?;
        let mut command = std::process::Command::new(stage.dir().join("app"));
        command.current_dir(stage.dir()).arg(addr.to_string());
        if let Some(dependency) = stage.dependency {
            command.env("DEPENDENCY", dependency.to_string());
        }
        let program = stage.tcp(&mut command, addr)?;
        Ok(Started::at(addr, stage.by_files(), program))
    },
    scenes: || [usual(200), dependent(), slowed()].concat(),
};
