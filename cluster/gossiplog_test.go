package cluster_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kith/cluster"
)

// Packets that need no key fill no log: of each kind one line in ten seconds is told,
// with how many were not, and other kinds beside them.
func TestGossipLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := cluster.NewGossipLog(slog.New(slog.NewTextHandler(&out, nil)))
		junk := func(i int) {
			fmt.Fprintf(l, "2026/01/01 00:00:00 [ERR] memberlist: Decrypt packet failed: No installed keys could decrypt the message from=192.0.2.%d:%d\n", i%250, i)
		}
		told := func(what string, lines int, has string) {
			t.Helper()
			if got := out.String(); strings.Count(got, "\n") != lines || !strings.Contains(got, has) {
				t.Errorf("%s: %.600q, want %d lines with %q", what, got, lines, has)
			}
			out.Reset()
		}
		for i := range 1000 {
			junk(i)
		}
		told("a flood", 1, "level=ERROR msg=\"memberlist: Decrypt packet failed")
		fmt.Fprintln(l, "2026/01/01 00:00:00 [WARN] memberlist: Refuting a suspect message (from: b)")
		fmt.Fprintln(l, "2026/01/01 00:00:00 [DEBUG] memberlist: Stream connection from=192.0.2.1:1")
		told("another kind beside it", 1, "level=WARN")
		time.Sleep(10 * time.Second)
		junk(0)
		told("later", 1, "left_out=999")
		time.Sleep(10 * time.Second)
		junk(0)
		if strings.Contains(out.String(), "left_out") {
			t.Errorf("nothing was left out: %s", out.String())
		}
		out.Reset()
		for i := range 10_000 { // words that a sender chose
			fmt.Fprintf(l, "[ERR] memberlist: %c%c%c broke\n", 'a'+i%26, 'a'+i/26%26, 'a'+i/26/26%26)
		}
		if n := strings.Count(out.String(), "\n"); n > 65 {
			t.Errorf("%d lines of as many kinds", n)
		}
	})
}
