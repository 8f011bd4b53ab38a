package main

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kith/proto"
)

func newOptOutCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "optout IDENTITY",
		Short: "Cut an identity out, for all clients; prints the receipt",
		Long: `Opts an identity out: it is dark at once, everything known of it goes, and what others
had learned from it is taken back. The receipt is the signed proof; keep it.

A cut that takes over two seconds is not final yet: then the state is printed in the
receipt's place. --wait waits for the receipt.`,
		Example: `  kith optout browser:3f0c9a --key demo-key > receipt.json
  kith receipt verify receipt.json --key demo-key
  kith optout account:77 --everywhere --wait --key demo-key`,
		Args: exactly(1, "one identity, such as browser:abc"),
	}
	c.flags(cmd)
	p := stateFlags(cmd)
	everywhere := cmd.Flags().Bool("everywhere", false, "the other identities of its users too")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkIdentities(args[0]); err != nil {
			return err
		}
		var s proto.OptOutState
		if err := c.call(cmd.Context(), http.MethodPost, "/v1/optouts", nil, map[string]any{"identity": args[0], "everywhere": *everywhere}, &s); err != nil {
			return err
		}
		return p.print(cmd, c, s)
	}
	return cmd
}

// statePrinter prints how far a cut is, as flags ask.
type statePrinter struct{ asJSON, wait *bool }

func stateFlags(cmd *cobra.Command) statePrinter {
	return statePrinter{
		asJSON: cmd.Flags().Bool("json", false, "print the whole answer, not the receipt alone"),
		wait:   cmd.Flags().Bool("wait", false, "wait until it is final"),
	}
}

// print prints the receipt, or the state where there is none.
func (p statePrinter) print(cmd *cobra.Command, c *connection, s proto.OptOutState) error {
	if *p.wait && !s.Final {
		var err error
		if s, err = awaitFinal(cmd, c, s); err != nil {
			return err
		}
	}
	if !s.Final {
		cmd.PrintErrln("not final yet; nothing of it is shown any more. For the receipt ask " + s.Status + ", or pass --wait.")
	}
	if s.CountsFrom != nil {
		cmd.PrintErrln(notYetKept(s))
	}
	if *p.asJSON || s.Receipt == nil {
		return printJSON(cmd, s)
	}
	return printJSON(cmd, s.Receipt)
}

// notYetKept says from when on events of an identity that began anew are kept.
func notYetKept(s proto.OptOutState) string {
	return "its events are not kept before " + s.CountsFrom.Format(time.RFC3339) + " at the earliest: the node's clock was set back, or the lane's time stands still for want of its owner."
}

// statusEvery is how often a cut's state is asked for.
const statusEvery = 250 * time.Millisecond

// awaitFinal asks for the state until it is final or the caller gives up.
func awaitFinal(cmd *cobra.Command, c *connection, s proto.OptOutState) (proto.OptOutState, error) {
	spin := newSpinner(cmd.ErrOrStderr(), "waiting for the cut to be final")
	defer spin.done()
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	path, _, _ := strings.Cut(s.Status, "?") // a client is named by each request
	for !s.Final {
		select {
		case <-cmd.Context().Done():
			return s, context.Cause(cmd.Context())
		case <-tick.C:
		}
		spin.turn()
		var next proto.OptOutState
		if err := c.call(cmd.Context(), http.MethodGet, path, nil, nil, &next); err != nil {
			return s, err
		}
		s = next
	}
	return s, nil
}

func newOptInCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "optin IDENTITY",
		Short:   "Let an opted-out identity be known again, from nothing",
		Example: "  kith optin browser:3f0c9a --key demo-key",
		Args:    exactly(1, "one identity, such as browser:abc"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkIdentities(args[0]); err != nil {
			return err
		}
		var s proto.OptOutState
		if err := c.call(cmd.Context(), http.MethodPost, "/v1/optins", nil, map[string]string{"identity": args[0]}, &s); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, s)
		}
		printf(cmd, "%s may be known again, from nothing\n", args[0])
		if s.CountsFrom != nil {
			cmd.PrintErrln(notYetKept(s))
		}
		return nil
	}
	return cmd
}

func newOptOutsCommand(c *connection) *cobra.Command {
	cmd := asGroup(&cobra.Command{
		Use:     "optouts",
		Short:   "The ledger of all opt-outs (admin)",
		Example: "  kith optouts export /backups/optouts.ledger --key ADMIN-KEY",
	})
	cmd.AddCommand(newOptOutsExportCommand(c))
	return cmd
}

func newOptOutsExportCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Copy the ledger of opt-outs into a file",
		Long: `Copies the ledger of opt-outs from a running node into a file. It names nobody: it
holds keyed hashes. A restore needs it to cut out again who opted out after the backup
was made: export it often, and keep it elsewhere than the node.`,
		Example: "  kith optouts export /backups/optouts.ledger --key ADMIN-KEY\n  kith restore /backups --ledger /backups/optouts.ledger",
		Args:    exactly(1, "a file to write"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := writable(args[0])
		if err != nil {
			return err
		}
		n, err := c.download(cmd, http.MethodGet, "/v1/optouts", path, "exporting opt-outs")
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, map[string]any{"file": args[0], "bytes": n})
		}
		printf(cmd, "wrote %s, %d bytes\n", args[0], n)
		return nil
	}
	return cmd
}
