package gateway_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"kith/internal/browsertest"
)

// browser starts a real one, or skips the test.
func browser(t *testing.T, options ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	return browsertest.Start(t, 3*time.Minute, options)
}

// onLocalhost makes an address one that browsers treat as secure.
func onLocalhost(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return "localhost:" + port
}

// run evaluates a script that gives a promise and waits for it.
func run[T any](ctx context.Context, script string) (T, error) {
	return chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
}
