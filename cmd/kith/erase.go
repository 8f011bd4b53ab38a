package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"kith/proto"
)

func newEraseCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "erase --now",
		Short: "Remove the bytes of everything purged, log included (admin)",
		Long: `What was purged is gone from every answer at once; its bytes go with the log's
retention and the store's compactions. This removes them now: the node compacts its
store and drops log entries that are applied. Backups are not touched. While an export,
a backup or another long reader goes on that began before, it is refused after 30 s.
A node of a cluster refuses it.`,
		Example: "  kith erase --now --key ADMIN-KEY",
		Args:    noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	now := cmd.Flags().Bool("now", false, "do it: it is heavy work for the node")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !*now {
			return usagef("say --now: the node compacts its whole store for it (to forget one identity use kith identity erase)")
		}
		spin := newSpinner(cmd.ErrOrStderr(), "erasing")
		defer spin.done()
		var out proto.Erased
		if err := c.call(cmd.Context(), http.MethodPost, "/v1/erase", nil, nil, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		printf(cmd, "removed the bytes of what was purged (%d opt-outs and erasures since the last time, or the node's start) and %d log entries\n", out.Identities, out.LogEntries)
		return nil
	}
	return cmd
}
