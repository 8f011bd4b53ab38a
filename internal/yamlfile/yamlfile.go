// Package yamlfile reads the YAML files that people write for kith, strictly:
// a field that the target lacks is an error.
//
// The library that it stands on panics on some malformed input, such as an
// unknown tag before a list (goccy/go-yaml issue 735). That is an error here,
// as any other bad input is.
package yamlfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

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
		return File{}, f.explained(err, nil, hint)
	}
	if len(f.tree.Docs) > 1 {
		return File{}, proto.Errorf(proto.CodeInvalid, "the file has %d documents: make it one, without lines of --- or ...", len(f.tree.Docs))
	}
	if f.empty() {
		return f, nil // the library would empty what into points to
	}
	target := reflect.TypeOf(into).Elem()
	if err := yaml.UnmarshalWithOptions(b, into, yaml.Strict()); err != nil {
		return File{}, f.explained(err, target, hint)
	}
	if err := f.altered(target); err != nil {
		return File{}, err
	}
	return f, nil
}

// altered is about the first number that is not taken as it is written: the library
// takes 0.5 for 0 where target has a whole number, which may stand for no limit, and
// 2026_11 for 202611 where it has text.
func (f File) altered(target reflect.Type) error {
	v := &numbers{target: target}
	for _, d := range f.tree.Docs {
		ast.Walk(v, d)
	}
	if v.found == nil {
		return nil
	}
	t := v.found.GetToken()
	e := proto.Errorf(proto.CodeInvalid, "%s takes a whole number, not %s", name(v.found), t.Value)
	if v.text { // what it is may be a secret
		e = proto.Errorf(proto.CodeInvalid, "%s looks like a number, which YAML writes otherwise: put it in quotes", name(v.found))
	}
	e.Line, e.Column = t.Position.Line, t.Position.Column
	return e
}

// numbers looks for a number that is altered.
type numbers struct {
	target reflect.Type
	found  ast.Node
	text   bool // where target has text
}

func (v *numbers) Visit(n ast.Node) ast.Visitor {
	var taken string
	switch x := n.(type) {
	case *ast.IntegerNode:
		taken = fmt.Sprint(x.Value)
	case *ast.FloatNode:
		taken = fmt.Sprint(x.Value)
	case *ast.StringNode: // in quotes, which a number may be
	default:
		return v
	}
	t := typeAt(v.target, n.GetPath())
	if v.found != nil || t == nil {
		return v
	}
	text := n.GetToken().Value
	if x, err := strconv.ParseFloat(text, 64); t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64 && err == nil && x != math.Trunc(x) {
		v.found = n
	}
	if t.Kind() == reflect.String && taken != "" && taken != text {
		v.found, v.text = n, true
	}
	return v
}

// typeAt is the type of what stands in t at a path, nil if that is not known.
func typeAt(t reflect.Type, path string) reflect.Type {
	for field := range strings.SplitSeq(strings.TrimPrefix(path, "$."), ".") {
		field, elements, _ := strings.Cut(field, "[")
		if t = fieldAt(t, field); t == nil {
			return nil
		}
		for ; elements != ""; _, elements, _ = strings.Cut(elements, "[") {
			if t.Kind() != reflect.Slice {
				return nil
			}
			t = t.Elem()
		}
	}
	return t
}

// fieldAt is the type of a struct's field, by its name in files.
func fieldAt(t reflect.Type, name string) reflect.Type {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	for f := range t.Fields() {
		if f.Tag.Get("yaml") == name {
			return f.Type
		}
	}
	return nil
}

// name is a node's path as it is written in messages.
func name(n ast.Node) string { return strings.TrimPrefix(n.GetPath(), "$.") }

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
func (f File) explained(err error, target reflect.Type, hint string) *proto.Error {
	var ours *proto.Error
	if errors.As(err, &ours) {
		return ours
	}
	var unknown *yaml.UnknownFieldError
	var wrong *yaml.TypeError
	var over *yaml.OverflowError
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
		field := cmp.Or(f.nameAt(positioned.GetToken()), fieldName(*wrong.StructFieldName))
		message = fmt.Sprintf("%s takes %s, not %s", field, kindName(wrong.DstType), kindName(wrong.SrcType))
	}
	if errors.As(err, &over) {
		message = fmt.Sprintf("%s is too large a number", over.SrcNum)
	}
	e := proto.Errorf(proto.CodeInvalid, "%s", message)
	if t := positioned.GetToken(); t != nil && t.Position != nil {
		e.Line, e.Column = t.Position.Line, t.Position.Column
	}
	return e
}

// nameAt is the name of the value that a token stands for, "" if none is found. The
// library names the outermost field.
func (f File) nameAt(t *token.Token) string {
	if f.tree == nil || t == nil {
		return ""
	}
	v := &valueOf{token: t}
	for _, d := range f.tree.Docs {
		ast.Walk(v, d)
	}
	return v.name
}

type valueOf struct {
	token *token.Token
	name  string
}

func (v *valueOf) Visit(n ast.Node) ast.Visitor {
	if t := n.GetToken(); v.name == "" && t != nil && t.Position.Line == v.token.Position.Line && t.Position.Column == v.token.Position.Column {
		v.name = name(n)
	}
	return v
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
