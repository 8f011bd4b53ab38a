package main

import (
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"kith/engine"
	"kith/proto"
)

func newVerifyCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Recompute what is derived from facts and history, and compare",
		Long: `Recomputes views and bitmaps from the facts and the history, by the plain evaluator,
and compares them with what is kept. It asks a running node (admin), or reads a
data directory on which no node runs with --data. Exit code 1: they differ.`,
		Example: "  kith verify --key dev-admin-key\n  kith verify --data ./kith-data --json",
		Args:    noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	data := namingFlag(cmd, "data", "data `DIR`ectory to read, without a node")
	file := namingFlag(cmd, "config", "configuration `FILE` of that directory's node, if it has one")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		report, err := verify(cmd, c, *file, *data)
		if err != nil {
			return err
		}
		if *asJSON {
			err = printJSON(cmd, report)
		} else {
			printVerify(cmd, report)
		}
		if err == nil && len(report.Problems) > 0 {
			err = proto.Errorf(proto.CodeCorrupt, "%d differences: keep the directory as it is, and restore a backup or report this", len(report.Problems))
		}
		return err
	}
	return cmd
}

func verify(cmd *cobra.Command, c *connection, file, data string) (engine.VerifyReport, error) {
	spin := newSpinner(cmd.ErrOrStderr(), "verifying")
	defer spin.done()
	if file == "" && data == "" {
		var r engine.VerifyReport
		err := c.call(cmd.Context(), http.MethodGet, "/v1/verify", nil, nil, &r)
		return r, err
	}
	ec, err := offlineConfig(cmd, file, data)
	if err != nil {
		return engine.VerifyReport{}, err
	}
	if _, err := os.Stat(ec.Dir); err != nil {
		return engine.VerifyReport{}, proto.Errorf(proto.CodeNotFound, "cannot read the data directory (%w)", err)
	}
	return engine.Verify(cmd.Context(), ec)
}

func printVerify(cmd *cobra.Command, r engine.VerifyReport) {
	printf(cmd, "compared %d identities, %d memberships, %d events", r.Identities, r.Memberships, r.Events)
	if r.Skipped > 0 {
		printf(cmd, "; left out %d memberships and users whose history was cut at its bound", r.Skipped)
	}
	if r.Behind > 0 {
		printf(cmd, "; left out %d not yet brought up to the newest rules", r.Behind)
	}
	printf(cmd, "\n")
	for _, l := range r.Lanes {
		printf(cmd, "lane %s at %d: state %s\n", l.Lane, l.Offset, l.StateHash)
	}
	for _, p := range r.Problems {
		printf(cmd, "DIFFERENT %s\n", p)
	}
	if len(r.Problems) == 0 {
		printf(cmd, "no differences\n")
	}
}
