# Runs a compiler: sh no-ptxas-notes.sh COMPILER ARGUMENT... Fails, too, when ptxas notes that it
# changed what sm_90a code says (C7508 setmaxnreg ignored, C7510 and C7511 wgmma serialised, C7517
# and C7519 waits and fences added): such code runs, several times slower.
notes=$("$@" 2>&1)
status=$?
[ -z "$notes" ] || printf '%s\n' "$notes" >&2
[ $status -eq 0 ] || exit $status
case $notes in
  *'(C75'*)
    echo 'error: ptxas changed sm_90a code (notes C75xx above)' >&2
    exit 1
    ;;
esac
