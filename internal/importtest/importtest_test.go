package importtest_test

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"kith/internal/importtest"
)

func TestImportsRunDownhill(t *testing.T) {
	problems, err := importtest.Check(os.DirFS("../.."), "kith", importtest.Rules())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
}

// The check must be able to fail: each source breaks one rule, or none.
func TestCheckFindsWhatItShould(t *testing.T) {
	tests := []struct{ name, file, src, want string }{
		{"downhill", "graph/a.go", "package graph\nimport _ \"kith/proto\"", ""},
		{"uphill", "proto/a.go", "package proto\nimport _ \"kith/graph\"", "proto must not import graph"},
		{"sideways", "graph/a.go", "package graph\nimport _ \"kith/segments\"", "graph must not import segments"},
		{"below", "gateway/a.go", "package gateway\nimport _ \"kith/engine/log\"", "gateway must not import engine/log"},
		{"actors may import identity", "actors/a.go", "package actors\nimport _ \"kith/actors/identity\"", ""},
		{"identity may not import actors", "actors/identity/a.go", "package identity\nimport _ \"kith/actors\"", "must not import actors"},
		{"nobody imports cmd", "engine/a.go", "package engine\nimport _ \"kith/cmd/kith\"", "must not import cmd/kith"},
		{"own package from outside", "gateway/a_test.go", "package gateway_test\nimport _ \"kith/gateway\"", ""},
		{"tests run downhill too", "gateway/a_test.go", "package gateway_test\nimport _ \"kith/engine\"", "must not import engine"},
		{"what only tests may", "graph/a.go", "package graph\nimport _ \"kith/internal/mistakes\"", "graph must not import internal/mistakes"},
		{"what tests may", "graph/a_test.go", "package graph\nimport _ \"kith/internal/mistakes\"", ""},
		{"no rule", "attic/a.go", "package attic", "no rule covers package attic"},
		{"no rule at the top", "a.go", "package kith", "no rule covers package ."},
		{"clock", "segments/a.go", "package segments\nimport \"time\"\nvar _ = time.Now()", "must not use time.Now"},
		{"renamed clock", "segments/a.go", "package segments\nimport t \"time\"\nvar _ = t.Since", "must not use time.Since"},
		{"time without a clock", "segments/a.go", "package segments\nimport \"time\"\nvar _ = time.Hour", ""},
		{"clock in a shell", "engine/a.go", "package engine\nimport \"time\"\nvar _ = time.Now()", ""},
		{"clock in a pure room's test", "segments/a_test.go", "package segments_test\nimport \"time\"\nvar _ = time.Now()", ""},
		{"chance", "graph/a.go", "package graph\nimport _ \"math/rand/v2\"", "must not import math/rand/v2"},
		{"files", "actors/identity/a.go", "package identity\nimport _ \"os\"", "must not import os"},
		{"network", "graph/a.go", "package graph\nimport _ \"net\"", "must not import net"},
		{"goroutine", "graph/a.go", "package graph\nfunc f() { go f() }", "must not start a goroutine"},
		{"goroutine of a group", "graph/a.go", "package graph\nimport \"sync\"\nfunc f(w *sync.WaitGroup) { w.Go(func() {}) }", "must not start a goroutine"},
		{"goroutine in a shell", "engine/a.go", "package engine\nfunc f() { go f() }", ""},
		{"below a pure room", "segments/cel/a.go", "package cel\nfunc f() { go f() }", "must not start a goroutine"},
		{"like a room, but not it", "engineering/a.go", "package engineering", "no rule covers"},
		{"test data", "graph/testdata/a.go", "package graph\nimport _ \"kith/engine\"", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			problems, err := importtest.Check(fstest.MapFS{tt.file: {Data: []byte(tt.src)}}, "kith", importtest.Rules())
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(problems, "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if _, err := importtest.Check(fstest.MapFS{"graph/a.go": {Data: []byte("not go")}}, "kith", importtest.Rules()); err == nil {
		t.Error("a file that does not parse passed")
	}
}
