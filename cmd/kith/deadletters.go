package main

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"kith/gateway"
	"kith/proto"
)

func newDeadLettersCommand(c *connection) *cobra.Command {
	cmd := asGroup(&cobra.Command{
		Use:     "deadletters",
		Short:   "Commands that an identity's step failed on (admin)",
		Example: "  kith deadletters list --key dev-admin-key",
	})
	cmd.AddCommand(newDeadLettersListCommand(c), newDeadLettersReplayCommand(c))
	return cmd
}

func newDeadLettersListCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Show dead letters, oldest first",
		Example: "  kith deadletters list --limit 20 --key dev-admin-key --json",
		Args:    noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	limit := numberFlag(cmd, "limit", 100, 1, gateway.DeadLettersMax, "how many at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var out struct {
			DeadLetters []proto.DeadLetter `json:"deadletters"`
		}
		if err := c.call(cmd.Context(), http.MethodGet, "/v1/deadletters", url.Values{"limit": {strconv.Itoa(*limit)}}, nil, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		if len(out.DeadLetters) == 0 {
			printf(cmd, "no dead letters\n")
		}
		for _, d := range out.DeadLetters {
			state := "waiting"
			if d.Replayed {
				state = "replayed"
			}
			printf(cmd, "%s  %s  %s  %s\n", d.ID, d.Time.Format(time.RFC3339), state, d.Reason)
		}
		return nil
	}
	return cmd
}

func newDeadLettersReplayCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "replay ID",
		Short:   "Put a dead letter into the log again",
		Example: "  kith deadletters replay 0:1234:5 --key dev-admin-key",
		Args:    exactly(1, "the id of a dead letter, as list shows it"),
	}
	c.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.call(cmd.Context(), http.MethodPost, "/v1/deadletters/"+url.PathEscape(args[0])+"/replay", nil, nil, nil); err != nil {
			return err
		}
		printf(cmd, "replayed %s\n", args[0])
		return nil
	}
	return cmd
}
