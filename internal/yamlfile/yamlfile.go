// Package yamlfile reads the YAML files that people write for kith, strictly:
// a field that the target lacks is an error.
//
// The library that it stands on panics on some malformed input, such as an
// unknown tag before a list (goccy/go-yaml issue 735). That is an error here,
// as any other bad input is.
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"kith/proto"
)

// File is a file that was read, for the places of what is in it.
type File struct{ tree *ast.File }

// Decode reads b into the struct that into points to. The error is a
// *proto.Error, with the line where there is one; hint says where one sees
// every field.
func Decode(b []byte, into any, hint string) (f File, err error) {
	defer func() {
		if recover() != nil {
			f, err = File{}, proto.Errorf(proto.CodeInvalid, "not valid YAML: remove tags (!), anchors (&) and aliases (*), and check the indentation")
		}
	}()
	b = bytes.TrimPrefix(b, []byte("\ufeff"))             // the byte order mark that some editors write
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) // of which the library counts some as two lines
	if f.tree, err = parser.ParseBytes(b, 0); err != nil {
		return File{}, explained(err, nil, hint)
	}
	if len(f.tree.Docs) > 1 {
		return File{}, proto.Errorf(proto.CodeInvalid, "the file has %d documents: make it one, without lines of --- or ...", len(f.tree.Docs))
	}
	if f.empty() {
		return f, nil // the library would empty what into points to
	}
	if err := yaml.UnmarshalWithOptions(b, into, yaml.Strict()); err != nil {
		return File{}, explained(err, reflect.TypeOf(into).Elem(), hint)
	}
	return f, nil
}

// empty reports whether there is nothing but comments, or null.
func (f File) empty() bool {
	for _, d := range f.tree.Docs {
		if d.Body != nil && d.Body.Type() != ast.NullType && d.Body.Type() != ast.CommentType {
			return false
		}
	}
	return true
}

// Position is the place of a path such as $.keys[0].scope, or of the nearest
// part of it that the file has; 0, 0 if it has none.
func (f File) Position(path string) (line, column int) {
	for path != "$" && path != "" && line == 0 {
		line, column = f.at(path)
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return line, column
}

// at is the place of a path, 0, 0 if the file does not have it or it is none: the
// library panics on some.
func (f File) at(path string) (line, column int) {
	defer func() {
		if recover() != nil {
			line, column = 0, 0
		}
	}()
	p, err := yaml.PathString(path)
	if err != nil {
		return 0, 0
	}
	n, err := p.FilterFile(f.tree)
	if err != nil || n == nil || n.GetToken() == nil {
		return 0, 0
	}
	return n.GetToken().Position.Line, n.GetToken().Position.Column
}

// defined is how the library says that a key is there twice.
var defined = regexp.MustCompile(`^mapping key "(.*)" already defined at \[([0-9]+):[0-9]+\]$`)

// explained turns the library's error into ours, with the line and a fix.
func explained(err error, target reflect.Type, hint string) *proto.Error {
	var ours *proto.Error
	if errors.As(err, &ours) {
		return ours
	}
	var unknown *yaml.UnknownFieldError
	var wrong *yaml.TypeError
	var positioned yaml.Error
	if !errors.As(err, &positioned) {
		return proto.Errorf(proto.CodeInvalid, "not valid YAML: %v", err)
	}
	message := positioned.GetMessage()
	if twice := defined.FindStringSubmatch(message); twice != nil {
		message = fmt.Sprintf("%s stands in line %s already: put what is here there, in the place of what it says", twice[1], twice[2])
	}
	if errors.As(err, &unknown) && unknown.Token != nil {
		message = unknownField(unknown.Token.Value, target, hint)
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

// suggestMax bounds the bytes of a name that others are compared with.
const suggestMax = 64

// unknownField names the nearest field that exists, or the way to see all.
func unknownField(name string, target reflect.Type, hint string) string {
	best, distance := "", 3
	names := fieldNames(target)
	if len(name) > suggestMax {
		names = nil
	}
	for _, f := range names {
		if d := proto.EditDistance(name, f); d < distance {
			best, distance = f, d
		}
	}
	if best == name {
		return fmt.Sprintf("field %q cannot stand here (%s)", name, hint)
	}
	if best != "" {
		return fmt.Sprintf("unknown field %q: did you mean %q?", name, best)
	}
	return fmt.Sprintf("unknown field %q: remove it (%s)", name, hint)
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
