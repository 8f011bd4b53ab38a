package main

import (
	"flag"
	"maps"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

// The command's tests are in its own package: main cannot be imported.

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kith": main})
}

var update = flag.Bool("update", false, "rewrite what the scripts compare with")

// usage runs a command that must fail with exit code 2.
func usage(ts *testscript.TestScript, _ bool, args []string) {
	if err := ts.Exec(args[0], args[1:]...); err == nil {
		ts.Fatalf("%q is no failure", args)
	} else if code := exitCode(err); code != exitUsage {
		ts.Fatalf("%q has exit code %d, want %d", args, code, exitUsage)
	}
}

func exitCode(err error) int {
	type exiter interface{ ExitCode() int }
	if e, ok := err.(exiter); ok {
		return e.ExitCode()
	}
	return -1
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", UpdateScripts: *update, Cmds: map[string]func(*testscript.TestScript, bool, []string){"usage": usage}})
}

// Every command has a summary and an example, and says where its output may
// be read by a program.
// withoutJSON are the commands whose output no program reads, and why.
var withoutJSON = map[string]string{
	"kith audience delete":    "nothing to read",
	"kith bench node":         "a process of a benchmark's",
	"kith bench yardstick":    "a process of a benchmark's",
	"kith client export":      "always lines of JSON",
	"kith config check":       "nothing to read",
	"kith config init":        "a file",
	"kith deadletters replay": "nothing to read",
	"kith demo":               "a site",
	"kith help":               "for people",
	"kith import delete":      "nothing to read",
	"kith segments backfill":  "nothing to read",
	"kith segments delete":    "nothing to read",
	"kith serve":              "runs until it is stopped",
}

func TestEveryCommandHelps(t *testing.T) {
	without := maps.Clone(withoutJSON)
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s has no summary or no example", c.CommandPath())
		}
		if !c.HasSubCommands() || c.Flags().Lookup("json") != nil {
			_, none := without[c.CommandPath()]
			if has := c.Flags().Lookup("json") != nil; has == none {
				t.Errorf("%s has --json: %t, which is not what withoutJSON says", c.CommandPath(), has)
			}
			delete(without, c.CommandPath())
		}
		for _, sub := range c.Commands() {
			if sub.Name() != "completion" {
				walk(sub)
			}
		}
	}
	walk(newRoot(func(string) string { return "" }))
	for path := range without {
		t.Errorf("there is no command %s", path)
	}
}
