package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"kith/internal/browsertest"
)

// TestTourInABrowser takes the demo's tour: two devices become one person, one
// opts out, and what the page shows after each step is what the node knows. With
// KITH_SCREENSHOTS a picture of each step is put into that directory.
func TestTourInABrowser(t *testing.T) {
	n := startNode(t, t.TempDir(), "--demo")
	ctx := browsertest.Start(t, 3*time.Minute, []chromedp.ExecAllocatorOption{chromedp.WindowSize(1200, 900)})
	var mu sync.Mutex
	var complaints []string
	if err := chromedp.Listen(ctx, func(e any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := e.(type) {
		case *runtime.EventExceptionThrown:
			complaints = append(complaints, fmt.Sprint(e.ExceptionDetails.Text, " ", e.ExceptionDetails.URL))
		case *log.EventEntryAdded:
			complaints = append(complaints, e.Entry.Text+" "+e.Entry.URL)
		}
	}); err != nil {
		t.Fatal(err)
	}
	text := func(id string) string {
		t.Helper()
		s, err := chromedp.Run(ctx, chromedp.Evaluate[string](fmt.Sprintf(`document.getElementById(%q).textContent`, id)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	picture := func(name string) {
		dir := os.Getenv("KITH_SCREENSHOTS")
		if dir == "" {
			return
		}
		b, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name+".png"), b, 0o600)
		}
		if err != nil {
			t.Error(err)
		}
	}
	if err := chromedp.Do(ctx, chromedp.Navigate(n.site+"tour")); err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		do   string
		want map[string]string // parts of what elements say afterwards
	}{
		{"read", map[string]string{"browser-segments": "auto", "browser-slot": "car", "phone-slot": "subscribe", "graph-text": "Nobody"}},
		{"phone", map[string]string{"phone-id": "browser:", "phone-segments": "none", "graph-text": "Nobody"}},
		{"login", map[string]string{"phone-segments": "auto", "phone-slot": "car", "graph-text": "One person"}},
		{"optout", map[string]string{"browser-segments": "opted out", "browser-slot": "subscribe", "phone-slot": "subscribe", "receipt-fields": "Signature", "problem": ""}},
		{"verify", map[string]string{"checks": "✓ The signature is valid✓ Nothing of the identity was found", "problem": ""}},
	} {
		button := fmt.Sprintf(`document.querySelector('button[data-step=%q]')`, step.do)
		if _, err := chromedp.Run(ctx, chromedp.Poll[bool]("!"+button+".disabled")); err != nil {
			t.Fatalf("step %s cannot be taken: %v; the page says %q", step.do, err, text("problem"))
		}
		if err := chromedp.Do(ctx, chromedp.Click(fmt.Sprintf(`button[data-step=%q]`, step.do))); err != nil {
			t.Fatal(err)
		}
		if _, err := chromedp.Run(ctx, chromedp.Poll[bool](fmt.Sprintf(`document.querySelectorAll("li.done").length === %d || document.getElementById("problem").textContent !== ""`, i+1))); err != nil {
			t.Fatalf("step %s does not end: %v", step.do, err)
		}
		picture(fmt.Sprintf("%d-%s", i+1, step.do))
		for id, want := range step.want {
			got := text(id)
			if !strings.Contains(got, want) || want == "" && got != "" {
				t.Errorf("after step %s %s says %q, not %q", step.do, id, got, want)
			}
		}
		if t.Failed() {
			break
		}
	}
	if s := text("checks"); strings.Contains(s, "✗") {
		t.Errorf("the receipt's check found something: %s", s)
	}
	tourAgain(t, ctx, n, text)
	mu.Lock()
	defer mu.Unlock()
	if len(complaints) > 0 {
		t.Errorf("the browser complains: %q", complaints)
	}
}

// tourAgain loads the tour's page after a tour: while the browser is opted out it
// says where to opt in, and after that a tour begins of which nothing is drawn yet.
func tourAgain(t *testing.T, ctx context.Context, n *liveNode, text func(string) string) {
	t.Helper()
	if err := chromedp.Do(ctx, chromedp.Navigate(n.site+"tour")); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](`document.querySelector("#problem a") !== null`)); err != nil {
		t.Fatalf("an opted-out browser is not told how to opt in: %v; the page says %q", err, text("problem"))
	}
	link, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.querySelector("#problem a").href`))
	if err != nil || link != n.public+"/optout" {
		t.Errorf("the link is to %q: %v", link, err)
	}
	if s := text("phone-id"); s != "none yet" {
		t.Errorf("the phone of the tour before is still there: %s", s)
	}
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[bool](fmt.Sprintf(`fetch(%q, { method: "POST", credentials: "include" }).then(r => { window.back = r.ok; }), true`, n.public+"/v1/optin"))); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](`window.back === true`)); err != nil {
		t.Fatalf("the opt-in does not end: %v", err)
	}
	if err := chromedp.Do(ctx, chromedp.Navigate(n.site+"tour")); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](`!document.querySelector('button[data-step="read"]').disabled`)); err != nil {
		t.Fatalf("no tour begins after the opt-in: %v; the page says %q", err, text("problem"))
	}
	if s := text("phone-id") + text("graph-text"); s != "none yetNobody is linked." {
		t.Errorf("a new tour begins with %q", s)
	}
}

// The demo's site says what became of an opt-out, and shows no segments after it.
func TestSiteOptOutInABrowser(t *testing.T) {
	n := startNode(t, t.TempDir(), "--demo")
	c := openConsole(t, n)
	c.do(chromedp.Navigate(n.site + "auto"))
	c.until(`window.kith && kith.v`)
	c.text(`[1, 2, 3].forEach(() => kith("event", "page", { section: "auto" }))`)
	c.until(`show(), document.getElementById("segments").textContent.includes("auto")`)

	c.text(`(() => { const real = window.fetch; window.fetch = (...a) => String(a[0]).includes("/v1/optout") ? Promise.resolve(new Response("{}", { status: 503 })) : real(...a); window.mend = () => { window.fetch = real; }; })()`)
	c.click("#optout")
	c.shows("#done", "did not answer")
	c.shows("#segments", "none yet")
	c.text(`mend()`)
	c.click("#optout")
	c.shows("#done", "Done")
}
