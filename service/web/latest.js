// Many questions in a row, answers in any order: an answer is shown unless a later question's has been shown already.

const MAX_UNDER_WAY = 4;

/**
 * @param send (question, signal) -> promise of an answer
 * @param show (answer, question, isLast) for each answer that is not overtaken; isLast: nothing newer has been asked
 * @param fail (error, question, isLast)  for each failure that is not overtaken
 * @param everyMs  at most one question in this time; the last one is always asked
 */
export function latest({ send, show, fail, everyMs }) {
  let asked = 0;
  let settled = 0;
  let timer = null;
  let waiting = null;
  const underWay = new Map();

  async function ask(question) {
    const number = ++asked;
    const abort = new AbortController();
    underWay.set(number, abort);
    // Under load, give up the oldest but one at a time: some answer should come through while the slider moves.
    if (underWay.size > MAX_UNDER_WAY) giveUp([...underWay.keys()][0]);
    let done;
    try {
      const answer = await send(question, abort.signal);
      done = () => show(answer, question, number === asked && waiting === null);
    } catch (error) {
      if (error.name === "AbortError") return;
      done = () => fail(error, question, number === asked && waiting === null);
    } finally {
      underWay.delete(number);
    }
    if (number <= settled) return;
    settled = number;
    for (const older of [...underWay.keys()].filter((n) => n < number)) giveUp(older);
    done();
  }

  function giveUp(number) {
    underWay.get(number).abort();
    underWay.delete(number);
  }

  return {
    ask(question) {
      if (timer !== null) {
        waiting = question;
        return;
      }
      ask(question);
      timer = setTimeout(() => {
        timer = null;
        if (waiting === null) return;
        const next = waiting;
        waiting = null;
        this.ask(next);
      }, everyMs);
    },
    get isBusy() {
      return waiting !== null || settled < asked;
    },
  };
}
