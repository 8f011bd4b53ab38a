// Command kith is the node, its demo and its client in one binary.
//
// It reads flags and environment, and nothing below it does; it decides
// nothing about data. Exit codes: 0 done, 1 failed, 2 wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"kith/proto"
)

// version is set by the build: -ldflags "-X main.version=...".
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		stop() // a second Ctrl-C ends the process at once
	}()
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	stop()
	os.Exit(code)
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run is the program: main and the tests call it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) int {
	root := newRoot(getenv)
	out := &output{to: stdout}
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(out)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil && ctx.Err() == nil { // a node that was told to stop is not its first words
		err = out.failed()
	}
	if err == nil {
		return exitOK
	}
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(stderr, "kith: %s\nSee '%s --help'.\n", message(err), cmd.CommandPath())
		return exitUsage
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		fmt.Fprintln(stderr, "kith: interrupted")
		return exitFailed
	}
	fmt.Fprintf(stderr, "kith: %s\n", message(err))
	return exitFailed
}

// output is where a command prints to. It remembers that something was not written:
// who reads a full disk's empty file must not take it for the answer.
type output struct {
	to  io.Writer
	mu  sync.Mutex
	err error // the first
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.to.Write(b)
	if err != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.err == nil {
			o.err = err
		}
	}
	return n, err
}

func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		return nil
	}
	return fmt.Errorf("the output could not be written: %w", o.err)
}

// message is an error as a person reads it: without our codes in front, with the
// place where a text was parsed, and with its cause.
func message(err error) string {
	var e *proto.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	prefix, _, _ := strings.Cut(err.Error(), e.Error())
	s := prefix + e.Message
	if e.Line > 0 {
		s += fmt.Sprintf(" (line %d, column %d)", e.Line, e.Column)
	}
	return s + cause(s, e.Err)
}

// cause is why what was said is so, as far as said does not have it: the message of
// err, or of a file that cannot be used its name and why.
func cause(said string, err error) string {
	var file *fs.PathError
	var ours *proto.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &ours) || !errors.As(err, &file):
		why := message(err)
		if strings.Contains(said, why) {
			return ""
		}
		return ": " + why
	}
	name, why := file.Path, file.Err.Error()
	switch {
	case strings.Contains(said, why):
		return ""
	case strings.Contains(said, name):
		return ": " + why
	}
	return ": " + name + ": " + why
}

func newRoot(getenv func(string) string) *cobra.Command {
	root := &cobra.Command{
		Use:   "kith",
		Short: "An identity graph and segmentation engine",
		Long: `kith takes events of browsers and devices, decides which segments each of them
belongs to, and answers ad servers in under a millisecond.

Try it: "kith serve --dev --demo" runs a node with a demo site and visitors.

Most commands ask a running node: --service is its address, --key a service key (or
KITH_SERVICE, KITH_KEY). Exit codes: 0 done, 1 failed, 2 wrong usage.`,
		Example:       "  kith serve --dev --demo\n  kith lookup browser:abc --key demo-key",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	c := &connection{getenv: getenv}
	root.AddCommand(
		newServeCommand(), newDemoCommand(), newConfigCommand(), newKeyCommand(c), newClientCommand(c), newSegmentsCommand(c),
		newIngestCommand(c), newImportCommand(c), newLookupCommand(c), newAudienceCommand(c), newCampaignCommand(c), newAggregatesCommand(c), newLeakageCommand(c), newExplainCommand(c), newDeadLettersCommand(c), newAuditCommand(c),
		newUserCommand(c), newLinkCommand(c), newUnlinkCommand(c), newIdentityCommand(c),
		newOptOutCommand(c), newOptInCommand(c), newOptOutsCommand(c), newReceiptCommand(c), newEraseCommand(c),
		newClusterCommand(c), newBackupCommand(c), newRestoreCommand(), newVerifyCommand(c), newBenchCommand(), newVersionCommand(),
	)
	asGroup(root)
	root.InitDefaultCompletionCmd()
	for _, sub := range root.Commands() {
		if sub.Name() == "completion" { // cobra's own, whose wrong usage would pass, or be a failure
			asGroup(sub)
			sub.Example = "  source <(kith completion bash)"
			for _, shell := range sub.Commands() {
				shell.Args = noArgs
			}
		}
	}
	root.InitDefaultHelpCmd() // cobra's own, which has no example
	for _, sub := range root.Commands() {
		if sub.Name() == "help" {
			sub.Example = "  kith help segments apply"
			sub.Run, sub.RunE = nil, helpOn
		}
	}
	return root
}

// helpOn prints a command's help. Of an unknown one it is wrong usage, which cobra
// would let pass.
func helpOn(cmd *cobra.Command, args []string) error {
	of, rest, err := cmd.Root().Find(args)
	if err != nil || len(rest) > 0 {
		return usagef("there is no help on %q: see kith --help", strings.Join(args, " "))
	}
	of.InitDefaultHelpFlag()
	return of.Help()
}

// asGroup makes a command that only holds others: alone or with an unknown
// word it is wrong usage, which cobra would let pass.
func asGroup(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			s := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				s += ": did you mean " + strings.Join(near, " or ") + "?"
			}
			return usagef("%s", s)
		}
		var names []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		slices.Sort(names)
		return usagef("%s needs a command: %s", cmd.CommandPath(), strings.Join(names, ", "))
	}
	cmd.SuggestionsMinimumDistance = 2
	return cmd
}

// exactly, atLeast and noArgs check the number of arguments, named in usage.
func exactly(n int, names string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s takes %s; got %d arguments", cmd.CommandPath(), names, len(args))
		}
		return nil
	}
}

func atLeast(n int, names string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return usagef("%s takes %s; got %d arguments", cmd.CommandPath(), names, len(args))
		}
		return nil
	}
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments; got %q", cmd.CommandPath(), args)
	}
	return nil
}
