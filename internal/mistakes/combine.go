package mistakes

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Variable is of the environment and names the mistake that a binary with many of
// them is to make; "": none.
const Variable = "KITH_MISTAKE"

// source is a file with mistakes that wait in it: each function with one has a twin
// that makes it, which is called if Variable says so.
type source struct {
	text    string
	file    *ast.File
	at      func(token.Pos) int // offset
	inserts []insert
}

type insert struct {
	at   int
	text string
}

func parseSource(text string) (*source, error) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, "", text, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return &source{text: text, file: f, at: func(p token.Pos) int { return set.Position(p).Offset }}, nil
}

// add has m wait, if it is in the body of a function that can call a twin: one
// that is no test, without type parameters, and whose receiver and parameters all have names.
func (s *source) add(m *Mistake) bool {
	i := strings.Index(s.text, m.Old)
	end := i + len(m.Old)
	for _, d := range s.file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Body == nil || i <= s.at(f.Body.Lbrace) || end > s.at(f.End()) {
			continue
		}
		args, ok := forwarded(f)
		if !ok {
			return false
		}
		twin := f.Name.Name + "__" + m.Name
		call := twin + "(" + args + ")"
		if f.Recv != nil {
			call = f.Recv.List[0].Names[0].Name + "." + call
		}
		if f.Type.Results != nil {
			call = "return " + call
		} else {
			call += "; return"
		}
		s.inserts = append(s.inserts,
			insert{s.at(f.Body.Lbrace) + 1, fmt.Sprintf("\nif plantedMistake == %q { %s }\n", m.Name, call)},
			insert{s.at(f.End()), "\n\n" + s.text[s.at(f.Pos()):s.at(f.Name.Pos())] + twin + s.text[s.at(f.Name.End()):i] + m.New + s.text[end:s.at(f.End())] + "\n"})
		return true
	}
	return false
}

var testName = regexp.MustCompile(`^(Test|Fuzz|Benchmark|Example|init$|main$)`)

// forwarded are the arguments with which f calls another of its kind.
func forwarded(f *ast.FuncDecl) (args string, ok bool) {
	if f.Type.TypeParams != nil || testName.MatchString(f.Name.Name) {
		return "", false
	}
	if r := f.Recv; r != nil && (len(r.List[0].Names) == 0 || r.List[0].Names[0].Name == "_") {
		return "", false
	}
	var list []string
	for _, p := range f.Type.Params.List {
		if len(p.Names) == 0 {
			return "", false
		}
		for _, n := range p.Names {
			if n.Name == "_" {
				return "", false
			}
			list = append(list, n.Name)
		}
		if _, variadic := p.Type.(*ast.Ellipsis); variadic { // the last one
			list[len(list)-1] += "..."
		}
	}
	return strings.Join(list, ", "), true
}

// String is the file with all that wait in it.
func (s *source) String() string {
	slices.SortStableFunc(s.inserts, func(a, b insert) int { return a.at - b.at })
	var b strings.Builder
	last := 0
	for _, x := range s.inserts {
		b.WriteString(s.text[last:x.at])
		b.WriteString(x.text)
		last = x.at
	}
	b.WriteString(s.text[last:])
	return b.String()
}

// chooser declares, in a file of its own beside name, what the twins are chosen by.
func (s *source) chooser(name string) (file, text string) {
	pkg := s.file.Name.Name
	file = filepath.Join(filepath.Dir(name), "planted_"+pkg+".go")
	if strings.HasSuffix(name, "_test.go") {
		file = strings.TrimSuffix(file, ".go") + "_test.go"
	}
	return file, fmt.Sprintf("package %s\n\nimport \"os\"\n\nvar plantedMistake = os.Getenv(%q)\n", pkg, Variable)
}
