package bench_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kith/internal/bench"
)

func fine() int { return http.StatusOK }

// A steady load sends what is due, no more, and catches up after a stall.
func TestSteadyLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		units, _, seconds, err := bench.RunLoad(t.Context(), 4, 10*time.Millisecond, time.Second, func() int {
			if n.Add(1) == 10 {
				time.Sleep(300 * time.Millisecond) // the node stalls; synctest's clock
			}
			return http.StatusOK
		})
		if err != nil || units != 2*101 || seconds < 1 || seconds > 1.1 {
			t.Errorf("%d units in %g s, %v; want 202 in one", units, seconds, err)
		}
	})
}

// A refused request is counted and sent again, not lost.
func TestRefusedIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		units, refused, _, err := bench.RunLoad(t.Context(), 1, 100*time.Millisecond, time.Second, func() int {
			if n.Add(1) <= 3 {
				return http.StatusServiceUnavailable
			}
			return http.StatusOK
		})
		if err != nil || refused != 3 || units != 2*11 {
			t.Errorf("%d units, %d refused, %v", units, refused, err)
		}
	})
}

// Any other status ends the load with an error on all connections.
func TestErrorEndsTheLoad(t *testing.T) {
	var n atomic.Int64
	_, _, _, err := bench.RunLoad(context.Background(), 8, 0, time.Hour, func() int {
		if n.Add(1) == 100 {
			return http.StatusForbidden
		}
		return http.StatusOK
	})
	if err == nil {
		t.Error("no error")
	}
}

// A background runs evenly while the foreground does, and ends with it.
func TestBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		units, err := bench.RunBehind(t.Context(), 4, 10*time.Millisecond, fine, func() { time.Sleep(5*time.Second + time.Millisecond) })
		if err != nil || units < 2*500 || units > 2*506 {
			t.Errorf("%d units, %v; want about 1000", units, err)
		}
	})
}

func TestCanceledLoad(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, _, err := bench.RunLoad(ctx, 2, 0, time.Hour, fine); err == nil {
		t.Error("no error")
	}
}

// A finite load does all that there is, what is refused too, and ends at an
// error.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		units, err := bench.RunDrain(t.Context(), 3, 10, func() int {
			if n.Add(1)%7 == 0 {
				return http.StatusServiceUnavailable
			}
			return http.StatusOK
		})
		if err != nil || units != 2*3*10 {
			t.Errorf("%d units, %v", units, err)
		}
	})
	if _, err := bench.RunDrain(t.Context(), 3, 10, func() int { return http.StatusForbidden }); err == nil {
		t.Error("no error")
	}
}
