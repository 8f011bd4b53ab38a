package gateway_test

import (
	"context"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"kith/proto"
)

// Previews of a client are made one after the other, and few at once on a node; who
// goes away while waiting takes no turn.
func TestPreviewsWait(t *testing.T) {
	r := newRig(t)
	begun, goOn := make(chan proto.ClientName, 8), make(chan struct{})
	r.previewing = func(c proto.ClientName) { begun <- c; <-goOn }
	var all sync.WaitGroup
	ask := func(ctx context.Context, target, k string) (code int) {
		q := httptest.NewRequest("PUT", target, strings.NewReader(`{"when":"x"}`)).WithContext(ctx)
		q.Header.Set(auth, key(k))
		w := httptest.NewRecorder()
		r.g.Service().ServeHTTP(w, q)
		return w.Code
	}
	for range 3 {
		all.Go(func() {
			if got := ask(t.Context(), "/v1/segments/auto?dry_run=true", "acme-key"); got != 200 {
				t.Errorf("a preview that waited: %d", got)
			}
		})
	}
	if c := <-begun; c != "acme" {
		t.Fatal(c)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got := ask(short, "/v1/segments/auto?dry_run=true", "acme-key"); got != 503 || len(begun) != 0 {
		t.Errorf("beside one of the same client: %d, %d more were begun", got, len(begun))
	}
	all.Go(func() { ask(t.Context(), "/v1/segments/auto?dry_run=true", "demo-key") })
	if c := <-begun; c != "demo" {
		t.Errorf("beside another client's, %s's was begun", c)
	}
	close(goOn)
	all.Wait()
	if n := len(begun); n != 2 {
		t.Errorf("%d of those that waited were made, want 2", n)
	}
}
