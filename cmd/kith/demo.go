package main

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"kith/internal/config"
	"kith/internal/demo"
)

func newDemoCommand() *cobra.Command {
	var public, service, key, client, listen string
	var rate int
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "A demo site with the tag in it, and visitors",
		Long: `Runs a demo site and visitors against a node that runs already: they browse, come
back, log in on several devices, buy and opt out. It defines five segments for the
client. "kith serve --dev --demo" runs a node and this in one.`,
		Example: "  kith demo\n  kith demo --listen 127.0.0.1:8095 --rate 200",
		Args:    noArgs,
	}
	fl := cmd.Flags()
	fl.StringVar(&public, "public", "http://127.0.0.1:8080", "`URL` of the node's public plane")
	fl.StringVar(&service, "service", "http://127.0.0.1:8081", "`URL` of its service plane")
	fl.StringVar(&key, "key", config.DevKey, "key of the client whose tag the site carries")
	fl.StringVar(&client, "client", config.DevClient, "that client's name")
	fl.StringVar(&listen, "listen", "127.0.0.1:8090", "`ADDR`ess of the site")
	fl.IntVar(&rate, "rate", 20, "events per second of all visitors together")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if rate < 1 || rate > 10_000 {
			return usagef("--rate is %d: use 1 to 10000", rate)
		}
		log, err := newLogger(cmd.ErrOrStderr(), "info", "text")
		if err != nil {
			return err
		}
		d, err := demo.Start(cmd.Context(), demo.Config{
			Public: withScheme(public), Service: withScheme(service), Key: cmp.Or(key, config.DevKey), Client: client, Listen: listen, EventsPerSecond: rate, Log: log,
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "The demo is ready at %s; its regular visitor is %s. Ctrl-C stops it.\n", d.URL(), d.Regular())
		return d.Run(cmd.Context())
	}
	return cmd
}
