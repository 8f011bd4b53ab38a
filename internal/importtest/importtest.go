// Package importtest checks that imports in kith run downhill, and that the
// rooms that decide take time and chance as arguments.
//
// It reads the source with go/parser and writes nothing. Its test runs it on
// the whole module; a package that no rule covers fails it.
package importtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Rule says what the packages at or below Room may import of kith.
type Rule struct {
	Room string   // path below the module; "engine/..." covers engine too
	May  []string // rooms; "x/..." for all below and x itself
	Test []string // rooms that only tests may import
	Pure bool     // decides: no os, net, clock, chance or goroutines
}

// Rules is the table of the design's rooms, first match first.
func Rules() []Rule {
	all := []string{"proto/...", "graph/...", "segments/...", "internal/exports", "actors/...", "engine/...", "cluster/...", "gateway/...", "internal/..."}
	return []Rule{
		{Room: "proto/...", May: []string{"proto/..."}},
		{Room: "graph/...", May: []string{"proto/...", "graph/..."}, Test: []string{"internal/mistakes"}, Pure: true},
		{Room: "segments/...", May: []string{"proto/...", "segments/..."}, Pure: true},
		{Room: "internal/exports", May: []string{"proto/...", "internal/cores", "internal/exports"}},
		{Room: "actors/identity/...", May: []string{"proto/...", "graph/...", "segments/...", "actors/identity/..."}, Pure: true},
		{Room: "actors/...", May: []string{"proto/...", "graph/...", "segments/...", "actors/..."}},
		{Room: "engine/store/...", May: []string{"proto/...", "engine/store/..."}},
		{Room: "engine/log/...", May: []string{"proto/...", "engine/log/..."}, Test: []string{"internal/porttest"}},
		{Room: "engine/...", May: []string{"proto/...", "graph/...", "segments/...", "internal/cores", "internal/exports", "internal/fair", "actors/...", "engine/...", "cluster/..."}, Test: []string{"internal/mistakes"}},
		{Room: "cluster/...", May: []string{"proto/...", "cluster/..."}, Test: []string{"internal/porttest"}},
		{Room: "gateway/...", May: []string{"proto/...", "internal/cores", "internal/exports", "internal/fair", "gateway/..."}, Test: []string{"internal/browsertest"}},
		{Room: "internal/browsertest", May: nil},
		{Room: "internal/cores", May: nil},
		{Room: "internal/importtest", May: nil},
		{Room: "internal/mistakes", May: nil},
		{Room: "internal/porttest", May: nil},
		{Room: "internal/fair", May: []string{"proto/..."}},
		{Room: "internal/yamlfile", May: []string{"proto/..."}},
		{Room: "internal/config", May: []string{"proto/...", "internal/yamlfile"}},
		{Room: "internal/ingest", May: []string{"proto/..."}},
		{Room: "internal/tagbuild", May: nil},
		{Room: "internal/demo", May: []string{"proto/..."}},
		{Room: "internal/bench", May: []string{"proto/...", "segments/...", "actors/...", "engine/...", "internal/config"}},
		{Room: "cmd/...", May: all},
	}
}

// impure are imports that a room which decides must not have.
var impure = []string{"os", "os/exec", "os/signal", "net", "net/http", "math/rand", "math/rand/v2", "crypto/rand", "hash/maphash", "syscall"}

// clocks are the functions of package time that look at the clock.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// Check reads the Go files of root, tests included, and gives a line for each
// thing that breaks a rule. module is the module's path.
func Check(root fs.FS, module string, rules []Rule) ([]string, error) {
	var problems []string
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || hasModule(root, name)):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		found, err := checkFile(root, module, name, rules)
		problems = append(problems, found...)
		return err
	})
	return problems, err
}

// hasModule reports whether a folder is a module of its own.
func hasModule(root fs.FS, dir string) bool {
	_, err := fs.Stat(root, path.Join(dir, "go.mod"))
	return err == nil
}

func checkFile(root fs.FS, module, name string, rules []Rule) ([]string, error) {
	src, err := fs.ReadFile(root, name)
	if err != nil {
		return nil, err
	}
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	dir := path.Dir(name)
	i := slices.IndexFunc(rules, func(r Rule) bool { return covers(r.Room, dir) })
	if i < 0 {
		return []string{fmt.Sprintf("%s: no rule covers package %s: add one to Rules", name, dir)}, nil
	}
	test := strings.HasSuffix(name, "_test.go")
	var problems []string
	report := func(at token.Pos, format string, args ...any) {
		problems = append(problems, fmt.Sprintf("%s: %s", files.Position(at), fmt.Sprintf(format, args...)))
	}
	checkImports(f, module, dir, rules[i], test, report)
	if rules[i].Pure && !test {
		checkPure(f, report)
	}
	return problems, nil
}

type reporter func(at token.Pos, format string, args ...any)

func checkImports(f *ast.File, module, dir string, r Rule, test bool, report reporter) {
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has refused it
		}
		if r.Pure && !test && slices.Contains(impure, imported) {
			report(spec.Pos(), "%s decides and must not import %s: take what it gives as an argument", dir, imported)
		}
		room, ours := strings.CutPrefix(imported, module+"/")
		// A test outside the package imports the package itself.
		if !ours || test && room == dir {
			continue
		}
		may := r.May
		if test {
			may = slices.Concat(r.May, r.Test)
		}
		if !slices.ContainsFunc(may, func(may string) bool { return covers(may, room) }) {
			report(spec.Pos(), "%s must not import %s: imports run downhill", dir, room)
		}
	}
}

// checkPure finds goroutines and looks at the clock.
func checkPure(f *ast.File, report reporter) {
	clock := importName(f, "time")
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			report(n.Pos(), "a room that decides must not start a goroutine")
		case *ast.CallExpr: // of a WaitGroup or an errgroup
			if f, ok := n.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Go" {
				report(n.Pos(), "a room that decides must not start a goroutine")
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && clock != "" && x.Name == clock && slices.Contains(clocks, n.Sel.Name) {
				report(n.Pos(), "a room that decides must not use time.%s: take the time as an argument", n.Sel.Name)
			}
		}
		return true
	})
}

// importName is the name by which f knows an imported package, or "".
func importName(f *ast.File, imported string) string {
	for _, spec := range f.Imports {
		if spec.Path.Value != strconv.Quote(imported) {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(imported)
	}
	return ""
}

// covers reports whether a pattern covers a folder.
func covers(pattern, dir string) bool {
	below, ok := strings.CutSuffix(pattern, "/...")
	if !ok {
		return pattern == dir
	}
	return dir == below || strings.HasPrefix(dir, below+"/")
}
