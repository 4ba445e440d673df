#!/bin/sh
# Counts what a fixed script (shards/engine/examples/script.rs) costs the engine, in instructions
# per delivered message, and compares with what is written down. Fails if a case needs more than
# 3 % more, and names the functions that grew; or if version 5, without properties, needs more
# than 5 % more than 3.1.1.
#
#   bench/instructions.sh            compare with bench/results/instructions.tsv
#   bench/instructions.sh --accept   write what is counted now to that file
#
# A count depends on the compiler, not on the machine's load. The file names the compiler that
# made it; with another one the counts say little, so only 15 % more fails then, and says so.
set -eu
cd "$(dirname "$0")/.."

baseline=bench/results/instructions.tsv
counted=target/instructions
deliveries=20000 # as in the script
# Version, QoS, subscribers, packets at once if more than one.
cases="4-0-1 4-1-1 4-2-1 5-0-1 5-1-1 5-2-1 4-0-100 5-0-100 4-1-100 5-1-100"
cases="$cases 4-0-1-50 4-1-1-50 5-0-1-50 5-1-1-50"

compiler=$(rustc --version)
cargo build --release --quiet -p octopus-engine --example script
script=${CARGO_TARGET_DIR:-target}/release/examples/script
mkdir -p "$counted"

# Prints lines of CASE, FUNCTION, INSTRUCTIONS PER DELIVERY; functions of less than one are left
# out, but counted in TOTAL.
count() {
    profile=$counted/$1
    # shellcheck disable=SC2046
    valgrind --quiet --tool=callgrind --callgrind-out-file="$profile" \
        "$script" $(echo "$1" | tr - ' ')
    callgrind_annotate --auto=no --threshold=100 "$profile" |
        awk -v load="$1" -v per="$deliveries" '
        /PROGRAM TOTALS/ { gsub(",", "", $1); total = $1 }
        /^ *[0-9,]+ \( *[0-9.]+%\) .*:/ {
            count = $1; gsub(",", "", count)
            sub(/^ *[0-9,]+ \( *[0-9.]+%\) */, ""); sub(/ \[[^]]*\]$/, "")
            sub(/^[^:]*:/, ""); sub(/::h[0-9a-f]+$/, "")
            of[$0] += count
        }
        END {
            printf "%s\tTOTAL\t%.1f\n", load, total / per
            for (name in of)
                if (of[name] >= per) printf "%s\t%s\t%.1f\n", load, name, of[name] / per
        }' | LC_ALL=C sort -t "$(printf '\t')" -k3,3nr
}

{
    printf '# %s\n' "$compiler"
    echo '# case (version-QoS-subscribers), function, instructions per delivery'
    for case in $cases; do count "$case"; done
} >"$counted/now.tsv"

# What version 5 costs above 3.1.1.
awk -F '\t' -v limit=5 '
    $2 != "TOTAL" { next }
    { of[$1] = $3; if ($1 ~ /^5/) loads[++count] = $1 }
    END {
        for (at = 1; at <= count; at++) {
            five = loads[at]; four = five; sub(/^5/, "4", four)
            percent = 100 * (of[five] - of[four]) / of[four]
            printf "%-8s %8.1f, %s %8.1f, %+.1f %%\n", five, of[five], four, of[four], percent
            if (percent > limit) failed = 1
        }
        exit failed
    }' "$counted/now.tsv" || {
    echo "instructions: version 5 without properties costs more than 5 % above 3.1.1"
    exit 1
}

if [ "${1-}" = --accept ]; then
    cp "$counted/now.tsv" "$baseline"
    exec grep TOTAL "$baseline"
fi

limit=3
written_by=$(sed -n '1s/^# //p' "$baseline")
if [ "$compiler" != "$written_by" ]; then
    limit=15
    echo "instructions: $baseline is of $written_by, this is $compiler:"
    echo "  only more than $limit % fails. Count main with this compiler and --accept it."
fi
awk -F '\t' -v limit="$limit" '
    /^#/ { next }
    NR == FNR { was[$1, $2] = $3; next }
    { now[$1, $2] = $3; if ($2 == "TOTAL") loads[++count] = $1; else names[$2] }
    END {
        for (at = 1; at <= count; at++) {
            load = loads[at]; before = was[load, "TOTAL"]; after = now[load, "TOTAL"]
            percent = before > 0 ? 100 * (after - before) / before : 100
            printf "%-8s %8.1f instructions per delivery, %+.1f %%\n", load, after, percent
            if (percent <= limit) continue
            failed = 1
            for (name in names) {
                more = now[load, name] - was[load, name]
                if (more * 200 > before) printf "         %+8.1f %s\n", more, name
            }
        }
        exit failed
    }' "$baseline" "$counted/now.tsv" || {
    echo "instructions: more than $limit % worse than $baseline. Make it cheaper; if it must be,"
    echo "  say why in the commit and write it down with bench/instructions.sh --accept"
    exit 1
}
