package config

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"kith/proto"
)

// fileBytesMax bounds a configuration file.
const fileBytesMax = 1 << 20

// Template is the commented kith.yaml that `kith config init` writes. It holds
// the defaults.
//
//go:embed kith.yaml
var Template string

// Load reads and checks a configuration file. An error carries the line.
func Load(path string) (Config, error) {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Config{}, proto.Errorf(proto.CodeNotFound, "no configuration at %s: write one with `kith config init`, or pass --config FILE", path)
	case err != nil:
		return Config{}, proto.Errorf(proto.CodeInvalid, "cannot read the configuration: %w", err)
	case len(b) > fileBytesMax:
		return Config{}, proto.Errorf(proto.CodeTooLarge, "%s has %d bytes: a configuration has at most %d", path, len(b), fileBytesMax)
	}
	return Parse(b)
}

// Parse reads and checks the text of a configuration.
func Parse(b []byte) (Config, error) {
	c := Default()
	file, err := parser.ParseBytes(b, 0)
	if err != nil {
		return Config{}, yamlError(err)
	}
	if err := yaml.UnmarshalWithOptions(b, &c, yaml.Strict()); err != nil {
		return Config{}, yamlError(err)
	}
	if p := c.problem(); p != nil {
		e := proto.Errorf(proto.CodeInvalid, "%s: %s", p.name(), p.message)
		e.Line, e.Column = positionOf(file, p.path)
		return Config{}, e
	}
	return c, nil
}

// yamlError turns a parser's error into ours, with the line and a fix.
func yamlError(err error) error {
	var ours *proto.Error
	if errors.As(err, &ours) {
		return ours
	}
	var unknown *yaml.UnknownFieldError
	var wrong *yaml.TypeError
	var positioned yaml.Error
	if !errors.As(err, &positioned) {
		return proto.Errorf(proto.CodeInvalid, "the configuration is not valid: %v", err)
	}
	message := positioned.GetMessage()
	if errors.As(err, &unknown) && unknown.Token != nil {
		message = unknownField(unknown.Token.Value)
	}
	if errors.As(err, &wrong) && wrong.StructFieldName != nil {
		message = fmt.Sprintf("%s takes %s, not %s", fieldName(*wrong.StructFieldName), kindName(wrong.DstType), kindName(wrong.SrcType))
	}
	e := proto.Errorf(proto.CodeInvalid, "%s", message)
	if t := positioned.GetToken(); t != nil && t.Position != nil {
		e.Line, e.Column = t.Position.Line, t.Position.Column
	}
	return e
}

// fieldName turns Config.Lanes into lanes; the line says the rest.
func fieldName(goName string) string {
	return strings.ToLower(goName[strings.LastIndexByte(goName, '.')+1:])
}

// kindName says what a value of t looks like in a file.
func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return kindName(t.Elem())
	case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Float64:
		return "a number"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "fields of its own"
	}
	return "text"
}

// unknownField names the nearest field that exists, or the way to see all.
func unknownField(name string) string {
	best, distance := "", 3
	for _, f := range fieldNames(reflect.TypeFor[Config]()) {
		if d := editDistance(name, f); d < distance {
			best, distance = f, d
		}
	}
	if best != "" {
		return fmt.Sprintf("unknown field %q: did you mean %q?", name, best)
	}
	return fmt.Sprintf("unknown field %q: remove it (`kith config init` shows every field)", name)
}

// fieldNames is every YAML name in t and below.
func fieldNames(t reflect.Type) []string {
	var out []string
	switch t.Kind() {
	case reflect.Slice:
		return fieldNames(t.Elem())
	case reflect.Struct:
		for f := range t.Fields() {
			if name := f.Tag.Get("yaml"); name != "-" && name != "" {
				out = append(append(out, name), fieldNames(f.Type)...)
			}
		}
	}
	return out
}

// editDistance counts the insertions, deletions and changes from a to b.
func editDistance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// positionOf finds the line of a path, or of the nearest part of it that the
// file has: a field left out has no line.
func positionOf(file *ast.File, path string) (line, column int) {
	for path != "$" && path != "" {
		if p, err := yaml.PathString(path); err == nil {
			if node, err := p.FilterFile(file); err == nil && node != nil && node.GetToken() != nil {
				return node.GetToken().Position.Line, node.GetToken().Position.Column
			}
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0, 0
}

func at(list string, i int, field string) string { return fmt.Sprintf("%s[%d].%s", list, i, field) }

// Init writes the template to path and refuses to overwrite a file.
func Init(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return proto.Errorf(proto.CodeConflict, "%s exists already: move it away, or name another file", path)
	}
	if err != nil {
		return proto.Errorf(proto.CodeInvalid, "cannot write the configuration: %w", err)
	}
	_, err = f.WriteString(Template)
	if err = errors.Join(err, f.Close()); err != nil {
		return proto.Errorf(proto.CodeInvalid, "cannot write %s: %w", path, err)
	}
	return nil
}
