package main

import (
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"kith/internal/ingest"
	"kith/proto"
)

// progress shows a bar on a terminal, once a load has taken two seconds.
type progress struct {
	bar   *progressbar.ProgressBar
	start time.Time
	last  int64
}

const progressAfter = 2 * time.Second

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func newProgress(w io.Writer, src *ingest.Source) *progress {
	if !isTerminal(w) {
		return &progress{}
	}
	size := src.Bytes()
	if src.Compressed() {
		size = -1
	}
	return &progress{start: time.Now(), bar: progressbar.NewOptions64(size,
		progressbar.OptionSetWriter(w), progressbar.OptionShowBytes(true), progressbar.OptionSetDescription("loading"),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())}
}

func (p *progress) read(n int64) {
	if p.bar == nil || n-p.last < 64<<10 || time.Since(p.start) < progressAfter {
		return
	}
	p.last = n
	_ = p.bar.Set64(n) // a bar that cannot be drawn is no reason to stop
}

func (p *progress) done() {
	if p.bar != nil && p.last > 0 {
		_ = p.bar.Finish()
	}
}

// newSpinner is progress towards an end that is not known.
func newSpinner(w io.Writer, what string) *progress {
	if !isTerminal(w) {
		return &progress{}
	}
	return &progress{start: time.Now(), bar: progressbar.NewOptions64(-1,
		progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what), progressbar.OptionClearOnFinish())}
}

func (p *progress) turn() {
	if p.bar == nil || time.Since(p.start) < progressAfter {
		return
	}
	p.last++
	_ = p.bar.Add(1)
}

// newShare is progress by the share that is done.
func newShare(w io.Writer, what string) *progress {
	if !isTerminal(w) {
		return &progress{}
	}
	return &progress{start: time.Now(), bar: progressbar.NewOptions64(100,
		progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what), progressbar.OptionClearOnFinish())}
}

// reached shows a share, if it is known.
func (p *progress) reached(share *float64) {
	if p.bar == nil || share == nil || time.Since(p.start) < progressAfter {
		return
	}
	p.last = int64(*share*100) + 1
	_ = p.bar.Set64(min(p.last, 99))
}

// readBounded reads all of r and refuses more than most bytes.
func readBounded(r io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		return nil, proto.Errorf(proto.CodeTooLarge, "the input has more than %d bytes", most)
	}
	return b, err
}
