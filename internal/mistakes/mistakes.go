// Package mistakes is a gate for tests: it plants known mistakes in the source,
// one at a time, and wants the tests to fail. A mistake that nobody notices is
// a promise that nothing guards.
package mistakes

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// Mistake is a change to the source that must not go unnoticed. It is planted
// with the compiler's overlay, so that the source itself knows nothing of it.
type Mistake struct {
	Name string
	File string // below the gate's
	Old  string // occurs exactly once
	New  string
	Test string // a package below the module, and a -run pattern, that notice it where the gate's runs do not; "" for those
}

// Gate is a package's mistakes and what notices them.
type Gate struct {
	Module   string // the module's root, from the package under test
	Files    string // the folder of the files, below the module
	Pkg      string // the package under test, below the module
	Mistakes []Mistake
	Runs     [][]string // arguments of Pkg's test binary, one run after the other until one fails
}

// Fit sees that each mistake can be planted, which Run would only tell after
// minutes.
func (g *Gate) Fit(t *testing.T) {
	for _, m := range g.Mistakes {
		t.Run(m.Name, func(t *testing.T) { g.plant(t, &m) })
	}
}

// Run plants the mistakes of these names, separated by commas, or all, and
// fails for each that no run notices.
func (g *Gate) Run(t *testing.T, names string) {
	wanted := strings.Split(names, ",")
	limit := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, m := range g.Mistakes {
		if names != "all" && !slices.Contains(wanted, m.Name) {
			continue
		}
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			limit <- struct{}{}
			defer func() { <-limit }()
			pkg, runs := g.Pkg, g.Runs
			if m.Test != "" {
				pattern := ""
				pkg, pattern, _ = strings.Cut(m.Test, " ")
				runs = [][]string{{"-test.run=" + pattern}}
			}
			bin := g.build(t, &m, pkg)
			for _, args := range runs {
				if out, noticed := g.test(t, bin, pkg, args); noticed {
					t.Logf("%s %s: %s", pkg, args[0], firstLine(out))
					return
				}
			}
			t.Fatalf("nobody noticed: not %s %q", pkg, runs)
		})
	}
}

// plant returns the source with the mistake in it.
func (g *Gate) plant(t *testing.T, m *Mistake) string {
	t.Helper()
	src, err := os.ReadFile(filepath.Join(g.Module, g.Files, m.File))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(src), m.Old); n != 1 {
		t.Fatalf("what it changes occurs %d times in %s: the code has changed, change the mistake too", n, m.File)
	}
	return strings.Replace(string(src), m.Old, m.New, 1)
}

// build compiles a package's tests with the mistake in them.
func (g *Gate) build(t *testing.T, m *Mistake, pkg string) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs(g.Module)
	if err != nil {
		t.Fatal(err)
	}
	planted := filepath.Join(dir, "planted_"+filepath.Base(m.File))
	if err := os.WriteFile(planted, []byte(g.plant(t, m)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, g.Files, m.File): planted}})
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "mistaken.test")
	cmd := exec.Command("go", "test", "-c", "-overlay", overlayFile, "-o", bin, "./"+pkg)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("does not build: %v\n%s", err, out)
	}
	return bin
}

// test reports whether tests failed. One that does not end has noticed nothing:
// a slow machine must not pass for a test.
func (g *Gate) test(t *testing.T, bin, pkg string, args []string) (string, bool) {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = filepath.Join(g.Module, pkg)
	out, err := cmd.CombinedOutput()
	return string(out), err != nil && ctx.Err() == nil
}

func firstLine(out string) string {
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			return line[:min(len(line), 200)]
		}
	}
	return out
}
