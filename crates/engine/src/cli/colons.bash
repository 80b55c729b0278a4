# Bash parts words at colons, which names of images and ends of copies have in them: they are
# joined again, and what stands before the last colon is on the line already.
_unlade() {
    local line=$COMP_LINE at=0 blanks word words=() current=0 i
    for i in "${!COMP_WORDS[@]}"; do
        word=${COMP_WORDS[i]}
        blanks=${line%%[! $'\t']*}
        line=${line#"$blanks"}
        line=${line#"$word"}
        at=$((at + ${#blanks} + ${#word}))
        if [[ $i -eq $COMP_CWORD && $at -gt $COMP_POINT ]]; then
            # What is behind the cursor stays as it is.
            word=${word:0:${#word} - (at - COMP_POINT)}
        fi
        if [[ -z $blanks && $i -gt 0 && ($word == :* || ${words[${#words[@]} - 1]} == *:) ]]; then
            if [[ $i -le $COMP_CWORD ]]; then
                words[${#words[@]} - 1]+=$word
            fi
        else
            words+=("$word")
        fi
        if [[ $i -eq $COMP_CWORD ]]; then
            current=$((${#words[@]} - 1))
        fi
    done
    local COMP_WORDS=("${words[@]}") COMP_CWORD=$current
    word=${words[current]}
    _clap_complete_unlade "$1" "$word" "$3"
    if [[ $COMP_WORDBREAKS == *:* && $word == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*:}"}"}")
    fi
}
