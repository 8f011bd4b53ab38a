package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"kith/internal/config"
)

// TestConnectionsAreBounded: one beyond the bound is answered when another ends.
func TestConnectionsAreBounded(t *testing.T) {
	l, err := listenOn("public", "127.0.0.1:0", config.TLS{}, 2)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	dial()
	dial()
	first, second := <-accepted, <-accepted
	third := dial()
	if _, err := io.WriteString(third, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-accepted:
		t.Fatal("a third connection is open")
	case <-time.After(100 * time.Millisecond): // as long as it takes to be sure, were it let in
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	c := <-accepted
	if r, err := http.ReadRequest(bufio.NewReader(c)); err != nil || r.Host != "x" {
		t.Error(err)
	}
	_, _ = second.Close(), c.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	<-accepted
}
