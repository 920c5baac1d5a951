// Command server starts a goroutine for each request, which waits for an answer that never comes: for ever (leaks), or for
// five seconds (ends).
package main

import (
	"fmt"
	"net/http"
	"os"
	"time"
)

var answers = make(chan []byte)

func wait(buffer []byte, patience <-chan time.Time) {
	select {
	case answer := <-answers:
		copy(buffer, answer)
	case <-patience:
	}
}

func main() {
	http.HandleFunc("/", func(writer http.ResponseWriter, request *http.Request) {
		var patience <-chan time.Time
		if os.Args[2] == "ends" {
			patience = time.After(5 * time.Second)
		}
		buffer := make([]byte, 4096)
		copy(buffer, request.URL.Path)
		go wait(buffer, patience)
		fmt.Fprintln(writer, "accepted")
	})
	if err := http.ListenAndServe("127.0.0.1:"+os.Args[1], nil); err != nil {
		os.Exit(1)
	}
}
