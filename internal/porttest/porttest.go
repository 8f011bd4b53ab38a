// Package porttest finds ports for tests that must know a node's before it runs.
package porttest

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
)

// given counts the pairs that this process gave out: tests run beside one another.
var given atomic.Int32

// apart is how many pairs are between those of processes that started in a row.
const apart = 257

// Free is an address of loopback whose port is free for TCP and UDP. It is below
// those that the system picks for outgoing connections and for listeners at port 0:
// one of these could get it before the test's own node, or while that is down.
func Free(t testing.TB) string {
	t.Helper()
	first, _ := Pair(t)
	return first
}

// Pair is as Free, two ports in a row.
func Pair(t testing.TB) (first, next string) {
	t.Helper()
	for range 100 {
		port := 20_000 + 2*((apart*os.Getpid()+int(given.Add(1)))%6_000)
		first, next = fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("127.0.0.1:%d", port+1)
		if isFree(first) && isFree(next) {
			return first, next
		}
	}
	t.Fatal("no two ports in a row are free")
	return "", ""
}

func isFree(addr string) bool {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer l.Close()
	p, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	p.Close()
	return true
}
