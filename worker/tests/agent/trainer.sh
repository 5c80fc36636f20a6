# Stands in for a trainer: speaks its protocol and acts as the recipe's `act` says.
# $1: a folder for signs between test and trainer.
echo '{"is":"ready","device":"cpu"}'
while read -r line; do
    trial=$(printf '%s' "$line" | sed 's/.*"trial":\([0-9]*\).*/\1/')
    attempt=$(printf '%s' "$line" | sed 's/.*"attempt":\([0-9]*\).*/\1/')
    act=$(printf '%s' "$line" | sed 's/.*"act":"\([a-z]*\)".*/\1/')
    id="\"trial\":$trial,\"attempt\":$attempt"
    # The process id is the metric, so that the test can find this process.
    echo "{\"is\":\"epoch\",$id,\"epoch\":1,\"metrics\":{\"pid\":$$}}"
    case "$act" in
        finish) ;;
        wait) while [ ! -e "$1/go" ]; do sleep 0.02; done ;;
        hang) sleep 1000 ;;
        crash) echo "the last words" >&2; kill -SEGV $$ ;;
        garble) echo "Epoch 1: loss 0.3"; sleep 1000 ;;
        fail) echo "{\"is\":\"failed\",$id,\"class\":\"bad_data\",\"message\":\"a.jpg is cut off\"}"; continue ;;
    esac
    echo "{\"is\":\"done\",$id,\"metrics\":{\"test/top1\":75.5}}"
    : > "$1/done"
done
