// Package mistakes is a gate for tests: it plants known mistakes in the source,
// one at a time, and wants the tests to fail. A mistake that nobody notices is
// a promise that nothing guards.
package mistakes

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
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
// with the compiler's overlay, so that the source itself knows nothing of it. Most
// wait together in one binary of a package's tests, which makes one of them when it
// runs (combine.go); the others have a binary of their own.
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
// fails for each that no run notices, and for a name that none has.
func (g *Gate) Run(t *testing.T, names string) {
	wanted := strings.Split(names, ",")
	for _, name := range wanted {
		if names != "all" && !slices.ContainsFunc(g.Mistakes, func(m Mistake) bool { return m.Name == name }) {
			t.Errorf("there is no mistake %q", name)
		}
	}
	limit := make(chan struct{}, runtime.GOMAXPROCS(0))
	together := map[string][]*Mistake{} // by package under test
	for i := range g.Mistakes {
		if m := &g.Mistakes[i]; names == "all" || slices.Contains(wanted, m.Name) {
			pkg, _ := g.runs(m)
			together[pkg] = append(together[pkg], m)
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(together)) {
		bin, alone := g.combine(t, pkg, together[pkg])
		for _, m := range together[pkg] {
			t.Run(m.Name, func(t *testing.T) {
				t.Parallel()
				limit <- struct{}{}
				defer func() { <-limit }()
				bin := bin
				if alone[m] {
					bin = g.build(t, map[string]string{m.File: g.plant(t, m)}, pkg)
				}
				_, runs := g.runs(m)
				for _, args := range runs {
					if out, noticed := g.test(t, bin, pkg, m.Name, args); noticed {
						t.Logf("%s %s: %s", pkg, args[0], firstLine(out))
						return
					}
				}
				t.Fatalf("nobody noticed: not %s %q", pkg, runs)
			})
		}
	}
}

// runs are what is to notice m: tests of a package, and their arguments.
func (g *Gate) runs(m *Mistake) (pkg string, runs [][]string) {
	if m.Test == "" {
		return g.Pkg, g.Runs
	}
	pkg, pattern, _ := strings.Cut(m.Test, " ")
	return pkg, [][]string{{"-test.run=" + pattern}}
}

// combine builds a package's tests with all mistakes that can wait in one binary,
// and sees that they pass while none is made. It tells which cannot.
func (g *Gate) combine(t *testing.T, pkg string, list []*Mistake) (bin string, alone map[*Mistake]bool) {
	t.Helper()
	sources, alone := map[string]*source{}, map[*Mistake]bool{}
	for _, m := range list {
		g.plant(t, m) // which sees that it fits
		s := sources[m.File]
		if s == nil {
			text, err := os.ReadFile(filepath.Join(g.Module, g.Files, m.File))
			if err != nil {
				t.Fatal(err)
			}
			if s, err = parseSource(string(text)); err != nil {
				t.Fatal(err)
			}
			sources[m.File] = s
		}
		alone[m] = !s.add(m)
	}
	files := map[string]string{}
	for name, s := range sources {
		if len(s.inserts) == 0 {
			continue
		}
		files[name] = s.String()
		chooser, text := s.chooser(name)
		files[chooser] = text
	}
	if len(files) == 0 {
		return "", alone
	}
	bin = g.build(t, files, pkg)
	done := map[string]bool{}
	for _, m := range list {
		_, runs := g.runs(m)
		for _, args := range runs {
			args = slices.Clone(args)
			for i, a := range args {
				if strings.HasPrefix(a, "-seeds=") { // what many seeds say is for other runs
					args[i] = "-seeds=20"
				}
			}
			if key := strings.Join(args, " "); !done[key] {
				done[key] = true
				if out, failed := g.test(t, bin, pkg, "", args); failed {
					t.Fatalf("%s %q fails without a mistake:\n%s", pkg, args, out)
				}
			}
		}
	}
	return bin, alone
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

// build compiles a package's tests with these files in place of what there is, by
// name below the gate's folder.
func (g *Gate) build(t *testing.T, files map[string]string, pkg string) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs(g.Module)
	if err != nil {
		t.Fatal(err)
	}
	replace := map[string]string{}
	for name, text := range files {
		planted := filepath.Join(dir, fmt.Sprint(len(replace), "_", filepath.Base(name)))
		if err := os.WriteFile(planted, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, g.Files, name)] = planted
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "mistaken.test")
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", overlayFile, "-o", bin, "./"+pkg)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("does not build: %v\n%s", err, out)
	}
	return bin
}

// test reports whether tests failed. One that does not end has noticed nothing:
// a slow machine must not pass for a test.
func (g *Gate) test(t *testing.T, bin, pkg, mistake string, args []string) (string, bool) {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = filepath.Join(g.Module, pkg)
	cmd.Env = append(os.Environ(), Variable+"="+mistake)
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
