// Package browsertest starts a real browser for tests.
package browsertest

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// starts is how often it is tried to start one: on a busy machine it may end by
// itself before it listens.
const starts = 3

// Start starts Debian's chromium and gives the context of its first tab, which is
// empty; both end with the test, or after within. It skips the test with -short and
// where there is no chromium.
func Start(t *testing.T, within time.Duration, browser []chromedp.ExecAllocatorOption, tab ...chromedp.ContextOption) context.Context {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no browser")
	}
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium on the PATH: apt-get install chromium to run this")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox)
	options = append(options, browser...)
	for n := 1; ; n++ {
		ctx, end := chromedp.NewExecAllocator(context.Background(), options...)
		t.Cleanup(end)
		ctx, end = chromedp.NewContext(ctx, tab...)
		t.Cleanup(end)
		if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
			if end(); n == starts {
				t.Fatalf("chromium does not start: %v", err)
			}
			t.Logf("chromium does not start, trying again: %v", err)
			time.Sleep(time.Second)
			continue
		}
		ctx, end = context.WithTimeout(ctx, within)
		t.Cleanup(end)
		return ctx
	}
}
