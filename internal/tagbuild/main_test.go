package main

import (
	"bytes"
	"compress/gzip"
	"os"
	"regexp"
	"strings"
	"testing"
)

// zippedMax is what the tag may weigh on its way: 3 KiB.
const zippedMax = 3 << 10

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("../../gateway/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestServedTagIsBuiltFromItsSource(t *testing.T) {
	want, err := minify(read(t, "kith.js"))
	if err != nil {
		t.Fatal(err)
	}
	served := read(t, "kith.min.js")
	if !bytes.Equal(want, served) {
		t.Error("gateway/kith.min.js is not what gateway/kith.js builds to: run make tag and commit both")
	}
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if _, err := z.Write(served); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, %d gzipped", len(served), b.Len())
	if b.Len() >= zippedMax {
		t.Errorf("the tag has %d bytes gzipped: it must stay under %d", b.Len(), zippedMax)
	}
}

// unsafe is what a page's content security policy may forbid, or what writes into
// the page: the tag does without.
var unsafe = regexp.MustCompile(`\beval\b|\bFunction\s*\(|set(Timeout|Interval)\(\s*["'` + "`" + `]|innerHTML|outerHTML|insertAdjacent|document\.write|\.write(ln)?\(|\.style\b|cssText|setAttribute|createElement|\bimport\b|\brequire\b|javascript:|https?://`)

func TestTagKeepsToContentSecurityPolicies(t *testing.T) {
	for _, name := range []string{"kith.js", "kith.min.js"} {
		code := string(read(t, name))
		if name == "kith.js" {
			code = regexp.MustCompile(`(?m)^\s*//.*$`).ReplaceAllString(code, "")
		}
		if found := unsafe.FindString(code); found != "" {
			t.Errorf("%s: it has %q", name, found)
		}
	}
	for _, bad := range []string{`x=eval("1")`, `new Function("a")`, `setTimeout("a()",1)`, `e.innerHTML=x`, `e.style.color="red"`, `import("x")`, `fetch("https://cdn.example/x.js")`} {
		if !unsafe.MatchString(bad) {
			t.Errorf("%s is not found", bad)
		}
	}
}

func TestMinifySaysWhereItIsBroken(t *testing.T) {
	_, err := minify([]byte("let a = 1;\nlet a = ;\n"))
	if err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Error(err)
	}
}
