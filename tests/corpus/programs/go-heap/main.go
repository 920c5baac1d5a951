// Command server keeps a bounded cache of pages, and makes half a megabyte of garbage for each request: its heap is a sawtooth
// at the collector's usual pace.
package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
)

const entries = 6000

var (
	lock  sync.Mutex
	pages = map[string]string{}
)

func main() {
	http.HandleFunc("/", func(writer http.ResponseWriter, request *http.Request) {
		rows := make([]string, 0, 400)
		for row := 0; row < 400; row++ {
			rows = append(rows, fmt.Sprintf("%s row %d %s", request.URL.Path, row, strings.Repeat("x", 1000)))
		}
		page := strings.Join(rows[:10], "\n")
		lock.Lock()
		if len(pages) >= entries {
			for old := range pages {
				delete(pages, old)
				break
			}
		}
		pages[request.URL.Path] = page
		lock.Unlock()
		fmt.Fprintln(writer, page)
	})
	if err := http.ListenAndServe("127.0.0.1:"+os.Args[1], nil); err != nil {
		os.Exit(1)
	}
}
