package directive

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
)

// Value stores one argument, read by one of the functions below.
func Value[T any](field *T, parse func(arg string) (T, error)) func(args []string) error {
	return func(args []string) error {
		v, err := parse(args[0])
		*field = v
		return err
	}
}

// Pointer is Value for fields whose zero value is not their default.
func Pointer[T any](field **T, parse func(arg string) (T, error)) func(args []string) error {
	return func(args []string) error {
		v, err := parse(args[0])
		*field = &v
		return err
	}
}

// List stores all arguments, after those of an earlier line where there was one.
func List(field *[]string) func(args []string) error {
	return func(args []string) error {
		*field = append(*field, args...)
		return nil
	}
}

// Each gives the first argument to the first setter, and so on. Later ones may be
// missing.
func Each(set ...func(args []string) error) func(args []string) error {
	return func(args []string) error {
		for i := range args {
			if err := set[i](args[i : i+1]); err != nil {
				return err
			}
		}
		return nil
	}
}

// Flag stores that the subdirective is there.
func Flag(field *bool) func(args []string) error {
	return func([]string) error {
		*field = true
		return nil
	}
}

// Text is any argument as it is.
func Text(arg string) (string, error) {
	return arg, nil
}

// Duration is a Go duration, or a number of days such as `1d`.
func Duration(arg string) (caddy.Duration, error) {
	d, err := caddy.ParseDuration(arg)
	return caddy.Duration(d), err
}

// Number is a whole number, negative or not.
func Number(arg string) (int, error) {
	n, err := strconv.Atoi(arg)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", arg)
	}
	return n, nil
}

// Percent is a number with its sign, so that it can not be meant for a count or a
// duration.
func Percent(arg string) (float64, error) {
	number, found := strings.CutSuffix(arg, "%")
	p, err := strconv.ParseFloat(number, 64)
	if !found || err != nil || math.IsNaN(p) || math.IsInf(p, 0) { // JSON knows neither
		return 0, fmt.Errorf("%q is not a percentage such as 10%%", arg)
	}
	return p, nil
}

// Size is a number of bytes, with or without a unit: 1MB is 10^6 of them, 1MiB 2^20.
func Size(arg string) (int64, error) {
	n, err := humanize.ParseBytes(arg)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size such as 1MiB", arg)
	}
	return int64(n), nil
}

// OrDefault fills in what was not given.
func OrDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
